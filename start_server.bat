@echo off
rem Install Chorus beside this file (once) and start it: start_server.bat [options of chorus up], or start_server.bat COMMAND ...
setlocal
set "ROOT=%~dp0."
call "%ROOT%\tools\venv.bat" base || exit /b
set "FIRST=%~1"
if not defined FIRST goto up
if "%FIRST:~0,1%"=="-" goto up
"%PY%" -P -m chorus_cli %*
exit /b
:up
"%PY%" -P -m chorus_cli up %*
