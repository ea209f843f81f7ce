@echo off
rem Install what the tests need (once) and run every check: test.bat [options of pytest]
setlocal
set "ROOT=%~dp0."
call "%ROOT%\tools\venv.bat" dev || exit /b
cd /d "%ROOT%"
set "FAILED="
"%PY%" -m ruff check . || set "FAILED=%FAILED% ruff-check"
"%PY%" -m ruff format --check . || set "FAILED=%FAILED% ruff-format"
"%PY%" -m pyright --pythonpath "%PY%" || set "FAILED=%FAILED% pyright"
"%PY%" proto\generate.py --check || set "FAILED=%FAILED% generate"
if defined FAILED echo These checks FAILED, their messages are above:%FAILED%
if not defined TEST_WORKERS set "TEST_WORKERS=2"
"%PY%" -m pytest -n %TEST_WORKERS% --dist loadfile %*
if errorlevel 1 exit /b
if defined FAILED exit /b 1
