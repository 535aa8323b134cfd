# Brings Wintun, whose signed library makes the network interface, into FOLDER\wintun: wintun.ps1 FOLDER
param([Parameter(Mandatory)][string]$Folder)
$ErrorActionPreference = 'Stop'
$hash = '07C256185D6EE3652E09FA55C0B673E2624B565E02C4B9091C79CA7D2F24EF51'

New-Item -ItemType Directory -Force $Folder | Out-Null
$archive = Join-Path $Folder 'wintun-0.14.1.zip'
if (-not (Test-Path $archive)) {
    Invoke-WebRequest -UseBasicParsing https://www.wintun.net/builds/wintun-0.14.1.zip -OutFile $archive
}
if ((Get-FileHash -Algorithm SHA256 $archive).Hash -ne $hash) {
    Remove-Item $archive
    throw "what was brought is not wintun-0.14.1.zip; try again"
}
Expand-Archive -Force $archive $Folder
