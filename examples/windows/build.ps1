# Builds dist\zks-lwip-VERSION-ARCHITECTURE-setup.exe, in a clone, with the Python that `python` is and Inno Setup 6.3
# or later. What it is for, amd64 or arm64, is what this Python is for.
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $true
Set-Location (Join-Path $PSScriptRoot '..\..')

$platform = python -c 'import sysconfig; print(sysconfig.get_platform())'
$architecture = @{ 'win-amd64' = 'amd64'; 'win-arm64' = 'arm64' }[$platform]
if (-not $architecture) { throw "this Python is for ${platform}: take one for 64 bit, of this machine's processor" }
python build_lwip.py fetch
python -m pip install . 'pyinstaller>=6.11,<7'
./examples/windows/wintun.ps1 build
# What is loaded by its name at run time is not found by looking at imports.
python -m PyInstaller --noconfirm --console --name zks-lwip --distpath build\windows --workpath build\pyinstaller `
    --specpath build --collect-submodules zks_lwip --collect-submodules dns --collect-submodules rich `
    --hidden-import _cffi_backend examples\windows\zks-lwip.py
$version = (build\windows\zks-lwip\zks-lwip.exe --version).Split(' ')[1]

$iscc = (Get-Command ISCC -ErrorAction SilentlyContinue).Source
if (-not $iscc) { $iscc = "${env:ProgramFiles(x86)}\Inno Setup 6\ISCC.exe" }
& $iscc "/DVersion=$version" "/DArchitecture=$architecture" examples\windows\zks-lwip.iss
