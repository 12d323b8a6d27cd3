"""The commands about devices: `msq device …` and `msq doctor`."""

import os
from typing import Annotated

import typer
from rich.markup import escape

from msq.errors import DeviceError
from msq.terminal import Json, Runtime, messages, output, print_json

device_app = typer.Typer(help="Devices: what there is, setting one up, looking into one.", no_args_is_help=True)
Device = Annotated[
    str, typer.Argument(help="A profile or a board of devices.toml by name; vm:NAME, ssh:user@host, adb:SERIAL.")
]


@device_app.command("list")
def list_devices(
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask boards of devices.toml, and machines that run, what is on them.")
    ] = False,
) -> None:
    """List the devices there are: profiles, boards of devices.toml, machines that run."""
    from devices.machine import Machine
    from devices.manage import summary
    from devices.own import own_devices
    from devices.profile import profile, profiles

    def show(name: str, line: str, asked: str | None) -> None:
        output.print(f"{name:<18}{line}", highlight=False, markup=False, soft_wrap=True)
        if ask and asked:
            output.print(f"{'':<18}{summary(asked)}", highlight=False, markup=False, soft_wrap=True)

    for found in profiles():
        runs = f"vm:{found.name}" if found.qemu_cpu and Machine.running(found) else None
        show(found.name, f"{found.title}{f'; {runs} runs' if runs else ''}", runs)
    for name, board in own_devices().items():
        show(name, f"{profile(name).title}, {board.transport} {board.address}", name)


@device_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name to give the board.")],
    host: Annotated[str | None, typer.Option(help="[user@]host[:port], reached over SSH.")] = None,
    serial: Annotated[str | None, typer.Option(help="Serial of a phone, or host:port, reached over ADB.")] = None,
    profile: Annotated[str | None, typer.Option(help="Name of its profile (msq device list).")] = None,
    project: Annotated[bool, typer.Option("--project", help="Add it to ./devices.toml, not to the user's.")] = False,
) -> None:
    """Give a board of your own a name; it is written into devices.toml."""
    from devices.manage import add as run

    file = run(name, host, serial, profile, project=project)
    messages.print(f"{file}: {name}; try `msq device info {name}`", highlight=False, markup=False, soft_wrap=True)


@device_app.command("up")
def up(device: Device, runtime: Runtime = "onnxruntime") -> None:
    """Set a device up: fetch, unpack and install all that it needs, once. A vm: keeps running until `down`."""
    import runtimes
    from devices.manage import keep_running
    from devices.measure import prepare

    keep_running(device, runtimes.adapter(runtime).PACKAGES)
    prepare(device, runtime)
    messages.print(f"{device} is ready for {runtime}", highlight=False)


@device_app.command("down")
def down(device: Device) -> None:
    """End an emulated machine that `up` left running."""
    from devices.manage import down as run

    messages.print(f"{device} {'was ended' if run(device) else 'did not run'}", highlight=False)


@device_app.command("info")
def info(device: Device, as_json: Json = False) -> None:
    """Ask a device what it is; beside it, what its profile says."""
    from devices.manage import info as run

    found = run(device)
    if as_json:
        print_json(found)
        return
    where = f"{found.transport}, {found.emulator}" if found.emulator else found.transport
    title = f"[bold]{escape(found.title)}[/]: {escape(found.machine)} by {escape(where)}"
    output.print(title, highlight=False, soft_wrap=True)
    for source, facts in (("says itself", found.observed), ("profile", found.facts)):
        for name, value in facts.items():
            output.print(f"  {source:<12}{name:<18}{value}", highlight=False, markup=False, soft_wrap=True)


@device_app.command("shell")
def shell(device: Device) -> None:
    """Open a device's shell: of a board, a phone, or a machine that runs."""
    from devices.manage import shell as run

    argv = run(device)
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        raise DeviceError(f"{argv[0]} is not installed here", hint="msq doctor says what is missing") from None


def doctor(as_json: Json = False) -> None:
    """Say what this machine lacks, for what, and the command that mends it; exits with 10 when something is missing."""
    from devices.doctor import examine

    report = examine()
    if as_json:
        print_json(report)
    else:
        for check in report.checks:
            mark = "[green]✓[/]" if check.ok else "[bold red]✗[/]"
            output.print(f"{mark} {check.name:<24}{escape(check.found)}", highlight=False, soft_wrap=True)
            if not check.ok:
                output.print(f"  for {check.purpose}: {escape(check.mend)}", highlight=False, soft_wrap=True)
    report.raise_for_missing()
