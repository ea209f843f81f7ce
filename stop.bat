@echo off
rem End what runs on a state folder: stop.bat [--force] [--state-dir DIR]
rem The twin of stop.sh. Windows lets nobody ask a process on another terminal to finish, so this ends each at once, with
rem all that it started: running requests are cut (callers get an error), state on the disk stays whole. To let requests
rem finish, press Ctrl+C or Ctrl+Break on the terminal that Chorus runs on.
setlocal
set "STATE=%USERPROFILE%\.chorus"
if defined CHORUS_STATE_DIR set "STATE=%CHORUS_STATE_DIR%"
:options
if "%~1"=="" goto stop
if "%~1"=="--force" (shift & goto options)
if "%~1"=="--state-dir" if not "%~2"=="" (
    set "STATE=%~2"
    shift
    shift
    goto options
)
echo stop.bat: unknown option %1; use: stop.bat [--force] [--state-dir DIR] 1>&2
exit /b 2
:stop
set "FOUND="
set "FAILED=0"
rem The face first, so that nothing new comes in; agents before the coordinator.
for %%F in ("%STATE%\run\up.pid" "%STATE%\run\http.pid") do call :one "%%~fF"
for %%F in ("%STATE%\run\agent-*.pid") do call :one "%%~fF"
call :one "%STATE%\run\coordinator.pid"
if not defined FOUND echo nothing runs on %STATE%
exit /b %FAILED%

:one
if not exist "%~1" exit /b 0
set "NUMBER="
set /p NUMBER=<"%~1"
rem A pid file may outlive its process, and the number may be somebody else's by now: its command line must be ours.
set "STOP_PID=%NUMBER%"
set "STOP_ROOT=%~dp0"
set "STOP_OURS=python.* -m chorus_cli( |$)|\\chorus(\.exe|-script\.py)?\W? +(up|coordinator|http|agent)( |$)"
rem No double quote may stand in the command: to cmd it would end the words that it must not read.
powershell -NoProfile -NonInteractive -Command "$id = 0; if (-not [int]::TryParse($env:STOP_PID, [ref]$id)) { exit 1 }; $line = (Get-CimInstance Win32_Process -Filter ('ProcessId = ' + $id)).CommandLine; $bare = 'python[0-9w.]*(\.exe)?\W? +\W?(\.\\|' + [regex]::Escape($env:STOP_ROOT) + ')?(server|client|http_wrapper)\W*( |$)'; if ($line -match $env:STOP_OURS -or $line -match $bare) { exit 0 }; exit 1"
if errorlevel 1 (
    del "%~1"
    exit /b 0
)
set "FOUND=1"
taskkill /PID %NUMBER% /T /F >nul
if errorlevel 1 (
    echo %~n1 ^(pid %NUMBER%^) could not be ended 1>&2
    set "FAILED=1"
    exit /b 1
)
del "%~1"
echo %~n1 (pid %NUMBER%) ended
exit /b 0
