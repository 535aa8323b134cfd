; The installer: the program, Wintun and, if wished, the service. build.ps1 makes what it takes.
#ifndef Version
  #error Give /DVersion=
#endif
#ifndef Architecture
  #error Give /DArchitecture=
#endif
; Of the program and of Wintun. Each installer is for one: a driver is not emulated.
#if Architecture == "amd64"
  #define System "x64os"
#elif Architecture == "arm64"
  #define System "arm64"
#else
  #error /DArchitecture= is amd64 or arm64
#endif

[Setup]
AppId={{6E6B8B0E-7E0B-4B5E-9B0D-7A6B73300001}
AppName=zks-lwip
AppVersion={#Version}
AppPublisher=zks_lwip
DefaultDirName={autopf}\zks-lwip
DisableProgramGroupPage=yes
PrivilegesRequired=admin
; What an ordinary user could write into must not be run by the service.
DisableDirPage=yes
UsePreviousAppDir=no
MinVersion=10.0
ArchitecturesAllowed={#System}
ArchitecturesInstallIn64BitMode={#System}
ChangesEnvironment=yes
CloseApplications=no
LicenseFile=..\..\LICENSE
SourceDir=.
OutputDir=..\..\dist
OutputBaseFilename=zks-lwip-{#Version}-{#Architecture}-setup
Compression=lzma2
SolidCompression=yes
UninstallDisplayIcon={app}\zks-lwip.exe

[Tasks]
Name: path; Description: "Have every prompt know the command zks-lwip"
Name: service; Description: "Start with the machine (needs settings in {app}\zks_lwip.toml)"; Flags: unchecked

[InstallDelete]
Type: filesandordirs; Name: "{app}\_internal"

[Files]
Source: "..\..\build\windows\zks-lwip\*"; DestDir: "{app}"; Flags: ignoreversion recursesubdirs
Source: "..\..\build\wintun\bin\{#Architecture}\wintun.dll"; DestDir: "{app}\_internal\zks_lwip"; Flags: ignoreversion
Source: "..\..\build\wintun\LICENSE.txt"; DestDir: "{app}\licenses"; DestName: "wintun.txt"; Flags: ignoreversion
Source: "..\..\vendor\lwip\src\COPYING"; DestDir: "{app}\licenses"; DestName: "lwip.txt"; Flags: ignoreversion
Source: "..\..\LICENSE"; DestDir: "{app}\licenses"; DestName: "zks_lwip.txt"; Flags: ignoreversion

[Registry]
Root: HKLM; Subkey: "SYSTEM\CurrentControlSet\Control\Session Manager\Environment"; ValueType: expandsz; \
    ValueName: "Path"; ValueData: "{olddata};{app}"; Tasks: path; Check: NotOnPath

[Run]
Filename: "{app}\zks-lwip.exe"; Parameters: "service install"; Flags: runhidden; Tasks: service; Check: HasSettings
Filename: "{app}\zks-lwip.exe"; Parameters: "service start"; Flags: runhidden; Tasks: service; Check: HasSettings

[UninstallRun]
; Whatever captured the machine is stopped, and what a killed one has left is taken away.
Filename: "{app}\zks-lwip.exe"; Parameters: "service remove"; Flags: runhidden; RunOnceId: "service"
Filename: "{app}\zks-lwip.exe"; Parameters: "disconnect"; Flags: runhidden; RunOnceId: "disconnect"
Filename: "{app}\zks-lwip.exe"; Parameters: "recover"; Flags: runhidden; RunOnceId: "recover"

[Code]
const
  Environment = 'SYSTEM\CurrentControlSet\Control\Session Manager\Environment';

function OnPath(const Folder: String; var Value: String): Boolean;
begin
  if not RegQueryStringValue(HKEY_LOCAL_MACHINE, Environment, 'Path', Value) then
    Value := '';
  Value := ';' + Value + ';';
  Result := Pos(';' + Lowercase(Folder) + ';', Lowercase(Value)) > 0;
end;

function NotOnPath: Boolean;
var
  Value: String;
begin
  Result := not OnPath(ExpandConstant('{app}'), Value);
end;

function HasSettings: Boolean;
begin
  Result := FileExists(ExpandConstant('{app}\zks_lwip.toml'));
end;

function PrepareToInstall(var NeedsRestart: Boolean): String;
var
  Code: Integer;
begin
  { Files of a program that runs cannot be replaced. The service is started again by its task alone. }
  Result := '';
  if FileExists(ExpandConstant('{app}\zks-lwip.exe')) then
  begin
    Exec(ExpandConstant('{app}\zks-lwip.exe'), 'service remove', '', SW_HIDE, ewWaitUntilTerminated, Code);
    if not Exec(ExpandConstant('{app}\zks-lwip.exe'), 'disconnect', '', SW_HIDE, ewWaitUntilTerminated, Code)
        or (Code <> 0) then
      Result := 'zks-lwip runs, and did not end: stop it first.';
  end;
end;

procedure CurUninstallStepChanged(Step: TUninstallStep);
var
  Value, Folder: String;
begin
  if Step <> usPostUninstall then
    Exit;
  Folder := ExpandConstant('{app}');
  if OnPath(Folder, Value) then
  begin
    Delete(Value, Pos(';' + Lowercase(Folder) + ';', Lowercase(Value)), Length(Folder) + 1);
    Value := Copy(Value, 2, Length(Value) - 2);
    RegWriteExpandStringValue(HKEY_LOCAL_MACHINE, Environment, 'Path', Value);
  end;
end;
