"""One command for everything: make the environment, run ComfyUI with this pack, test, lint, benchmark.

    python dev.py run              serve ComfyUI with the example workflow open
    python dev.py run --headless   run the example workflow and write its pictures
    python dev.py test             run the tests, by two workers
    python dev.py test --quick     run the core's, and those of three models, while one writes
    python dev.py test --all       run those, too, that else only CI runs
    python dev.py test tests/web --frontend 1.58.1    run those of the page on another frontend

The environment goes to .venv, the host, models and outputs to .run; --home or QRLORA_HOME puts both
elsewhere. COMFYUI_DIR names a ComfyUI of your own to use instead of a downloaded one. Needs Python 3.11
and nothing else.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # before any import that an older Python cannot read
    sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import os
import subprocess
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from devtools.environment import PATIENT, ROOT, Environment, SetupError, dev_group, host_group, say
from devtools.frontend import VARIABLE, frontend_version
from devtools.lint import findable_pack, page_checks, python_checks
from devtools.server import Server, ServerError, exit_on_sigterm, free_port, has_gpu, is_port_free
from devtools.workspace import PACK_NAME, Home, copy_workflows, ensure_host, host_version, make_base, own_host

EXAMPLE = "compose_content_and_style"
WORKFLOWS = ROOT / "example_workflows"
DEFAULT_PORT = 8188
Command = Callable[[argparse.Namespace], int]
MEASURED = ("qrlora_core", "nodes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parse(arguments)
    os.environ["QRLORA_HOME"] = str(options.home.folder)
    if options.frontend:
        os.environ[VARIABLE] = options.frontend
    exit_on_sigterm()
    try:
        command: Command = options.command
        return command(options)
    except (SetupError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; what `test` and `bench` do not know themselves goes to `options.rest`."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in (test, bench):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    options.home = Home(options.home.expanduser().resolve()) if options.home else Home.from_environment()
    return options


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", type=Path, help="folder of .venv and .run (default: QRLORA_HOME, else here)")
    common.add_argument(
        "--frontend", metavar="VERSION", help=f"frontend to serve (default: {VARIABLE}, else the host's own)"
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Command, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        made.set_defaults(command=function)
        return made

    running = add("run", run, "Serve ComfyUI with this pack, or run a workflow without a browser.")
    running.add_argument("--headless", action="store_true", help="run the example workflow, then stop")
    running.add_argument("--workflow", type=Path, help="with --headless: another workflow in API form")
    running.add_argument("--port", type=int, help=f"port (default: {DEFAULT_PORT}, or the next free one)")
    running.add_argument("--listen", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    running.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    testing = add("test", test, "Run the tests; further arguments go to pytest.")
    testing.add_argument("--quick", action="store_true", help="the core, and FLUX, SDXL and SD3; no coverage")
    testing.add_argument("--all", action="store_true", help="benchmarks and the second renderer too, as CI does")
    testing.add_argument("--record", action="store_true", help="all; keep the counts in docs/hosts.json and README.md")
    add("lint", lint, "Check style, format and types.")
    benching = add("bench", bench, "Run a benchmark; further arguments go to it.")
    benching.add_argument("name", help="as in benchmarks/NAME.py")
    add("setup", setup, "Make or repair the environment, the host and the model, and start nothing.")
    return parser


def run(options: argparse.Namespace) -> int:
    """Serve ComfyUI, or run one workflow."""
    workflow = (options.workflow or WORKFLOWS / "api" / f"{EXAMPLE}.json").resolve()
    if options.headless and not workflow.is_file():
        raise SetupError(f"no workflow at {workflow}")
    port = choose_port(options.port, options.listen, headless=options.headless)
    environment, host = prepare(options.home)
    prepare_base(options.home, environment)
    cpu = options.cpu or not has_gpu(environment.python)
    if options.headless:
        return run_headless(options.home, environment, workflow, port=port, cpu=cpu)
    return serve(options.home, environment, host, port=port, listen=options.listen, cpu=cpu)


def test(options: argparse.Namespace) -> int:
    """Run pytest. `-P` keeps the root off sys.path, where our `nodes` would shadow the host's."""
    environment, host = prepare(options.home, dev=True)
    call([environment.python, "-m", "devtools.browser"])  # without one, the tests that need it are skipped
    say(f"testing with ComfyUI {host_version(host)} in {host}, frontend {frontend_version(environment.python)}")
    command: list[str | Path] = [environment.python, "-P", "-m", "pytest", *pytest_options(options)]
    if not options.record:
        return call([*command, *options.rest])
    result = options.home.folder / ".run" / "tests.xml"
    status = call([*command, f"--junitxml={result}", *options.rest])
    return call([environment.python, "-m", "devtools.hosts", result]) or status


def pytest_options(options: argparse.Namespace) -> list[str]:
    """Two workers, but for files that are named; of a whole run, what took longest and which lines it reached."""
    chosen = ["--quick"] if options.quick else ["--all"] if options.all or options.record else []
    if any(".py" in word for word in options.rest):
        return chosen
    workers = ["--numprocesses", "2", "--durations", "10", *chosen]
    if options.quick or options.rest:
        return workers
    fewest = ["--cov-fail-under", "95"] if os.environ.get("CI") else []  # percent of the lines
    return [*workers, *(f"--cov={ROOT / name}" for name in MEASURED), "--cov-report", "term:skip-covered", *fewest]


def lint(options: argparse.Namespace) -> int:
    """Run all checks, whichever fails."""
    environment, _ = prepare(options.home, dev=True)
    os.environ["MYPYPATH"] = str(findable_pack(options.home.folder / ".run"))
    return max([call(command) for command in chain(python_checks(environment), page_checks(environment))])


def bench(options: argparse.Namespace) -> int:
    """Run one benchmark module."""
    folder = ROOT / "benchmarks"
    packages = [path.parent.name for path in folder.glob("*/__main__.py")]
    known = sorted([*packages, *(path.stem for path in folder.glob("*.py") if path.stem != "__init__")])
    if options.name not in known:
        raise SetupError(f"no benchmark named {options.name}; there are: {', '.join(known)}")
    environment, _ = prepare(options.home, dev=True)
    return call([environment.python, "-m", f"benchmarks.{options.name}", *options.rest])


def setup(options: argparse.Namespace) -> int:
    """Make everything that the other commands need."""
    environment, host = prepare(options.home, dev=True)
    prepare_base(options.home, environment)
    say(f"ready: ComfyUI {host_version(host)} in {host}, environment in {environment.folder}")
    return 0


def prepare(home: Home, *, dev: bool = False) -> tuple[Environment, Path]:
    """Make or repair the environment and the host."""
    groups = [host_group(own_host()), *([dev_group()] if dev else [])]
    environment = Environment(home.venv)
    environment.ensure(groups)
    return environment, ensure_host(home, environment.install)


def prepare_base(home: Home, environment: Environment) -> None:
    """Make the base directory with the linked pack, the default model and the example workflows."""
    make_base(home.base)
    command: list[str | Path] = [environment.python, "-m", "playground.assemble"]
    if call([*command, "--models", home.base / "models", "--input", home.base / "input"]):
        raise SetupError("the default model could not be assembled (see above).")
    copy_workflows(WORKFLOWS, home.base)


def choose_port(wanted: int | None, listen: str, *, headless: bool = False) -> int:
    """The port to listen on; a taken one is an error only where it was asked for.

    Raises:
        SetupError: `wanted` is taken; names one that is free.
    """
    address = listen.partition(",")[0]
    if wanted is not None and is_port_free(wanted, address):
        return wanted
    if headless and wanted is None:
        return free_port()
    first = wanted or DEFAULT_PORT
    port = next((port for port in range(first, first + 100) if is_port_free(port, address)), None)
    if port is None:
        raise SetupError(f"cannot listen on {address}: ports {first} to {first + 99} are all taken.")
    if wanted is not None:
        raise SetupError(f"port {wanted} is taken; free is, for example, --port {port}.")
    if port != first:
        say(f"port {first} is taken; using {port}")
    return port


def serve(home: Home, environment: Environment, host: Path, *, port: int, listen: str, cpu: bool) -> int:
    """Serve until Ctrl-C."""
    server = Server(
        home.base,
        host=host,
        python=environment.python,
        port=port,
        listen=listen,
        cpu=cpu,
        quiet=False,
        timeout=600.0,
    )
    say(f"starting {server.title}" + (" on the CPU" if cpu else ""))
    try:
        with server:
            announce(server.url)
            return server.wait()
    except KeyboardInterrupt:
        say("stopped")
        return 0


def announce(url: str) -> None:
    """Say where to look."""
    say(f"open the example workflow: {url}/?template={EXAMPLE}&source={PACK_NAME}")
    say(f"without it: {url}; the examples are in the workflows panel (press W) too; Ctrl-C stops the server")


def run_headless(home: Home, environment: Environment, workflow: Path, *, port: int, cpu: bool) -> int:
    """Run one workflow in a process that has the environment's packages."""
    command: list[str | Path] = [environment.python, "-m", "devtools.headless"]
    command += ["--base", home.base, "--workflow", workflow]
    return call([*command, "--port", str(port), *(["--cpu"] if cpu else [])])


def call(command: Sequence[str | Path]) -> int:
    """Run a command from the root, its threads waiting patiently. On Ctrl-C, which it gets too, wait for its end."""
    environment = {**PATIENT, **os.environ}
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        except SystemExit:
            process.terminate()
            raise


if __name__ == "__main__":
    sys.exit(main())
