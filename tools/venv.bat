@echo off
rem Called by start_server.bat and test.bat: `venv.bat base|dev` makes %ROOT%\.venv ready and sets PY to its Python.
set "VENV=%ROOT%\.venv"
set "PY=%VENV%\Scripts\python.exe"
set "STAMP=%VENV%\chorus-installed"
"%PY%" -c "" >nul 2>&1 && goto installed
set "FOUND="
for %%P in ("py -3" "python" "python3") do (
    if not defined FOUND (
        %%~P -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>&1 && set "FOUND=%%~P"
    )
)
if not defined FOUND (
    echo Chorus needs Python 3.11 or newer; install it from https://www.python.org/downloads/ 1>&2
    exit /b 2
)
echo Making %VENV% ...
if exist "%VENV%" rmdir /s /q "%VENV%"
%FOUND% -m venv "%VENV%" || exit /b 2
:installed
"%PY%" "%ROOT%\tools\install_stamp.py" %1 "%STAMP%" && exit /b 0
echo Installing Chorus into %VENV% (once; needs the internet) ...
if exist "%STAMP%" del "%STAMP%"
rem The pip that comes with Python may be years old, and search for many minutes for versions that go together.
"%PY%" -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25" || exit /b 1
if "%1"=="dev" (set "WHAT=%ROOT%[dev]") else (set "WHAT=%ROOT%")
"%PY%" -m pip install --quiet --disable-pip-version-check -e "%WHAT%"
if errorlevel 1 (
    echo The installation failed; the reason is above. 1>&2
    exit /b 1
)
rem The last generation of the OpenAI client, which people still have; a folder of its own, beside the newest.
if "%1"=="dev" "%PY%" -m pip install --quiet --disable-pip-version-check --target "%VENV%\old-openai" --upgrade --no-deps openai==1.40.0 httpx==0.27.2 sniffio httpcore h11 distro anyio certifi tqdm
if errorlevel 1 exit /b 1
"%PY%" "%ROOT%\tools\install_stamp.py" %1 "%STAMP%" --write
