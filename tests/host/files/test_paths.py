"""What the host lists is listed and found; no name leads out of its folders, and none that a system lacks is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from comfyui_qr_lora.nodes.host.files import checkpoints, folders
from comfyui_qr_lora.nodes.host.files.folders import adapter_names, adapter_path, new_output_path
from comfyui_qr_lora.nodes.host.files.pairs import half_of
from comfyui_qr_lora.nodes.host.files.previews import pictures_beside, with_preview
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.qrlora_core import AdapterFileError, QRLoRAError, TrainingError, save_adapter
from devtools.server import Server

LABELS = ("qr_loras", "loras", "output/qr_loras")


class Place:
    """The folders of a host, and one outside with a file that nobody may reach."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.models, self.loras = base / "models" / "qr_loras", base / "models" / "loras"
        self.output = base / "output" / "qr_loras"
        self.checkpoints = self.output / "checkpoints"
        self.outside = base / "outside"
        for folder in (self.models, self.loras, self.output, self.outside / "run_00001"):
            folder.mkdir(parents=True)
        for file in ("secret.safetensors", "run_00001/step_00000001.safetensors"):
            (self.outside / file).write_bytes(b"secret")

    @property
    def roots(self) -> list[Path]:
        return [self.models, self.loras, self.output]

    def holds(self, path: Path) -> bool:
        """Judged apart from the code under test."""
        real = os.path.realpath(path)
        return any(os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root) for root in self.roots)

    def contents(self) -> set[Path]:
        """Everything that is there, links not followed."""
        return set(self.base.rglob("*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    known = {"qr_loras": [str(made.models)], "loras": [str(made.loras)]}
    monkeypatch.setattr(folders.folder_paths, "get_folder_paths", known.__getitem__)
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    return made


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


OUTSIDE = [
    "../secret", "..", "../", "a/../../secret", "./../secret", "a/../..", "../../outside/secret",
    "/outside/secret", "//server/share/secret", "/", "~/../../secret",
    "..\\secret", "a\\..\\..\\secret", "\\secret", "\\\\server\\share\\secret", "\\\\?\\C:\\secret", "\\\\.\\NUL",
    ".. /secret", "a\\.. /secret",
]  # fmt: skip
DRIVES = ["C:\\secret", "C:secret", "c:/secret", "c:"]  # outside on Windows alone
UNUSABLE = [
    "a\0b", "\0", "a\nb", "a\rb", "\x1b[31mred", "a\x7f", "a\x85b", "a\u202etxt", "\u2066a\u2069", "\udcff", "\ud800",
    "<img src=x onerror=alert(1)>", "a>b", "b" * 300 + "/a", "b" * 300, "ä" * 200, "a/" + "b" * 5000,
]  # fmt: skip
# Names that Windows does not have, each with what is wrong with it there.
OF_OTHER_SYSTEMS = {
    "the name has the character": [
        "file:stream", "a/file:stream:$DATA", "a/c:b", 'what?"*', "a|b", "a*", "Title: v2/a",
    ],
    "ends in a dot or a space": [
        "... /secret", "a/. ./secret", ".../secret", "folder./a", "folder /a", "folder. . /a", "a/ /b"
    ],
    "is a device on Windows": [
        "CON/a", "con.d/a", "nul/a", "Aux .d/a", "COM1/a", "lpt9.x/a", "com¹/a", "CONIN$/a",
    ],
}  # fmt: skip
of_other_systems = pytest.mark.parametrize(
    ("reason", "name"), [(reason, name) for reason, names in OF_OTHER_SYSTEMS.items() for name in names]
)
LITERAL = [
    "%2e%2e%2fsecret", "..%2fsecret", "%00", "..a", "a..b/c", "cat\u00a0", "été", "猫/犬", "~", "$HOME", "${HOME}",
    "-rf", "console", "com", "com10", "nullify/con_", "`id`", "a;b", "&lt;b&gt;",
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_reading_outside_is_refused(place: Place, label: str, name: str) -> None:
    for ending in ("", "/cat.safetensors"):
        with pytest.raises(AdapterFileError, match="leads out of the folder") as caught:
            adapter_path(f"{label}/{name}{ending}")
        assert repr(f"{label}/{name}{ending}") in str(caught.value)


@pytest.mark.parametrize("name", ["/etc/passwd", "C:\\x.safetensors", "\\\\server\\x.safetensors", "../x", "", "\0"])
def test_reading_outside_of_all_labels_is_refused(place: Place, name: str) -> None:
    with pytest.raises(AdapterFileError, match="no such adapter file"):
        adapter_path(name)


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_names_are_refused_with_an_error_of_ours(place: Place, name: str) -> None:
    before = place.contents()
    with pytest.raises(AdapterFileError, match=r"the name|is a device") as reading:
        adapter_path(f"loras/{name}.safetensors")
    with pytest.raises(AdapterFileError, match=r"the name|is a device") as writing:
        new_output_path(name)
    assert repr(name)[1:20].rstrip("'") in str(reading.value)
    assert str(writing.value).startswith("filename_prefix ")
    assert place.contents() == before


@pytest.mark.parametrize("name", DRIVES)
def test_drives_are_outside_on_windows_and_names_elsewhere(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(AdapterFileError, match="no such adapter file"):
        adapter_path(f"loras/{name}")
    monkeypatch.setattr(folders, "ON_WINDOWS", True)
    with pytest.raises(AdapterFileError, match="leads out of the folder"):
        adapter_path(f"loras/{name}")


@pytest.mark.parametrize("name", [*OUTSIDE, *DRIVES])
def test_writing_outside_is_refused_and_makes_nothing(place: Place, name: str) -> None:
    before = place.contents()
    with pytest.raises(AdapterFileError, match=r"filename_prefix .* leads out of .*output.qr_loras"):
        new_output_path(name)
    assert place.contents() == before


@pytest.mark.parametrize("name", ["", " ", ".", "./", "\t "])
def test_an_empty_prefix_is_refused(place: Place, name: str) -> None:
    with pytest.raises(AdapterFileError, match="filename_prefix"):
        new_output_path(name)


@of_other_systems
def test_names_that_windows_does_not_have_are_read_where_they_are_and_never_written(
    place: Place, monkeypatch: pytest.MonkeyPatch, reason: str, name: str
) -> None:
    if os.name != "nt":
        expected = put(place.loras / f"{name}.safetensors")
        assert adapter_path(f"loras/{name}.safetensors") == expected
        assert adapter_names() == [f"loras/{name}.safetensors"]
    with pytest.raises(AdapterFileError, match=reason):
        new_output_path(name)
    monkeypatch.setattr(folders, "ON_WINDOWS", True)
    with pytest.raises(AdapterFileError, match=reason):
        adapter_path(f"loras/{name}.safetensors")
    assert adapter_names() == []


PLAIN = st.text("abcXYZ019_-é猫", min_size=2, max_size=12)
FORBIDDEN = {
    "the name has the character": st.builds("{}{}{}".format, PLAIN, st.sampled_from('<>:"|?*'), PLAIN),
    "the name has characters that cannot be shown": st.builds(
        "{}{}{}".format, PLAIN, st.sampled_from("\0\n\t\x1b\x7f\x9f\u202e\u2029\udc80"), PLAIN
    ),
    "ends in a dot or a space": st.builds("{}{}/{}".format, PLAIN, st.text(". ", min_size=1, max_size=4), PLAIN),
    "is a device on Windows": st.builds(
        "{}{}/{}".format,
        st.sampled_from(["con", "Prn", "AUX", "nUl", "com1", "LPT9"]), st.sampled_from(["", ".x", " .tar.gz"]), PLAIN,
    ),
    "the name is too long: at most 255 bytes, found": st.builds(
        "{}{}".format, PLAIN, st.sampled_from(["b" * 250, "é" * 127]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", FORBIDDEN)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_name_that_some_system_forbids_is_refused_with_its_reason(
    place: Place, reason: str, data: st.DataObject
) -> None:
    name = data.draw(FORBIDDEN[reason])
    before = place.contents()
    for spelling in (name, f"sub/{name}", f"sub\\{name}"):
        with pytest.raises(AdapterFileError, match=f"filename_prefix .*{reason}"):
            new_output_path(spelling)
    expected = "run_name: expected a plain name" if "/" in name else f"run_name .*{reason}"
    with pytest.raises((AdapterFileError, TrainingError), match=expected):
        checkpoints.new_run(name, 1)
    assert place.contents() == before


@pytest.mark.parametrize("name", LITERAL)
def test_odd_but_plain_names_mean_themselves(place: Place, name: str) -> None:
    expected = put(place.loras / f"{name}.safetensors")
    assert adapter_path(f"loras/{name}.safetensors") == expected
    assert f"loras/{name}.safetensors" in adapter_names()
    assert new_output_path(name) == place.output / f"{name}_00001_.safetensors"


def test_numbers_go_on_and_the_hosts_placeholders_are_filled_in(place: Place) -> None:
    for name in (
        "cat_00001_.safetensors",
        "cat_00041_.safetensors",
        "cat_x_.safetensors",
        "catfish_00099_.safetensors",
    ):
        put(place.output / "animals" / name)
    assert new_output_path("animals/cat").name == "cat_00042_.safetensors"
    assert new_output_path("animals\\cat").parent == place.output / "animals"
    assert new_output_path("%year%/%month%-%day%_%hour%%minute%%second%").parent.name.startswith("20")


def test_a_prefix_through_a_file_is_refused(place: Place) -> None:
    put(place.output / "cat")
    with pytest.raises(AdapterFileError, match=r"filename_prefix 'cat/dog': .*cat cannot be used"):
        new_output_path("cat/dog")


# Links


def test_a_folder_of_adapters_may_itself_be_a_link(place: Place) -> None:
    """So users put models on another disk."""
    for root in place.roots:
        other = place.base / "disk" / root.name / root.parent.name
        other.mkdir(parents=True)
        root.rmdir()
        root.symlink_to(other, target_is_directory=True)
        put(root / "animals" / "cat.safetensors")
    assert adapter_names() == sorted(f"{label}/animals/cat.safetensors" for label in LABELS)
    for label in LABELS:
        assert adapter_path(f"{label}/animals/cat.safetensors").is_file()
    assert new_output_path("animals/dog").parent.is_dir()


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("kind", ["file", "folder", "folder of folders", "chain", "relative"])
def test_a_link_that_somebody_made_is_followed_as_the_host_follows_it(place: Place, label: str, kind: str) -> None:
    root = dict(zip(LABELS, place.roots, strict=True))[label]
    put(root / "good.safetensors")
    link, name = root / "link", "link/secret.safetensors"
    if kind == "file":
        link, name = root / "link.safetensors", "link.safetensors"
        link.symlink_to(place.outside / "secret.safetensors")
    elif kind == "folder of folders":
        link, name = root / "link", "link/outside/secret.safetensors"
        link.symlink_to(place.base)
    elif kind == "chain":
        (root / "second").symlink_to(place.outside)
        link.symlink_to(root / "second")
    else:
        target = os.path.relpath(place.outside, root) if kind == "relative" else place.outside
        link.symlink_to(target, target_is_directory=True)
    assert {f"{label}/good.safetensors", f"{label}/{name}"} <= set(adapter_names())
    assert adapter_path(f"{label}/{name}").read_bytes() == b"secret"
    with pytest.raises(AdapterFileError, match="leads out of the folder"):
        adapter_path(f"{label}/link/../{name}")


def test_a_link_from_one_folder_of_adapters_into_another_is_fine(place: Place) -> None:
    put(place.loras / "sdxl" / "cat.safetensors")
    (place.models / "mine").symlink_to(place.loras / "sdxl")
    (place.models / "one.safetensors").symlink_to(place.loras / "sdxl" / "cat.safetensors")
    (place.output / "shared").symlink_to(place.models)
    assert {"qr_loras/mine/cat.safetensors", "qr_loras/one.safetensors"} <= set(adapter_names())
    assert adapter_path("qr_loras/mine/cat.safetensors").is_file()
    assert adapter_path("qr_loras/one.safetensors").is_file()
    assert new_output_path("shared/dog") == place.output / "shared" / "dog_00001_.safetensors"


def test_a_link_outside_does_not_hide_the_same_name_in_another_folder(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = place.base / "second"
    known = {"qr_loras": [str(place.models)], "loras": [str(place.loras), str(second)]}
    monkeypatch.setattr(folders.folder_paths, "get_folder_paths", known.__getitem__)
    (place.loras / "link").symlink_to(place.outside)
    found = put(second / "link" / "other.safetensors")
    assert adapter_path("loras/link/other.safetensors") == found
    assert adapter_path("loras/link/secret.safetensors").parent == place.loras / "link"


def test_links_in_circles_end(place: Place) -> None:
    put(place.loras / "cat.safetensors")
    (place.loras / "self").symlink_to(place.loras)
    (place.loras / "other").symlink_to(place.models)
    (place.models / "back").symlink_to(place.loras)
    (place.loras / "loop.safetensors").symlink_to(place.loras / "loop.safetensors")
    names = adapter_names()
    assert "loras/cat.safetensors" in names
    assert len(names) < 10
    with pytest.raises(AdapterFileError):
        adapter_path("loras/loop.safetensors")


def test_names_that_would_be_refused_are_not_listed(place: Place) -> None:
    for name in ("<img src=x>", "a\nb", "a\u202eb", "\udcff") if os.name != "nt" else ():
        put(place.loras / f"{name}.safetensors")
    put(place.loras / "good.safetensors")
    assert adapter_names() == ["loras/good.safetensors"]


def test_every_listed_name_can_be_read(place: Place) -> None:
    for index, name in enumerate([*LITERAL, "a*b", 'a"b', "UPPER", "a.b.c"]):
        put(place.roots[index % 3] / f"{name}.safetensors")
    names = adapter_names()
    assert len(names) == len(LITERAL) + 4
    assert all(adapter_path(name).is_file() for name in names)


# What the host lists


FOLDERS = st.lists(
    st.sampled_from(["sub", "Sub dir", "a.b", ".git", ".hidden", "猫", "v1: x", "link", "back\\slash"]), max_size=3
)
FILES = st.tuples(
    FOLDERS.map("/".join),
    st.sampled_from(["cat", "Cat", "a.b", "x y", "é", "con", "dot.", "end ", "it's", "50% [v2] (final)", ".sft"]),
    st.sampled_from([".safetensors", ".SAFETENSORS", ".SafeTensors", ".sft", ".SFT", ".pt", ".txt", ".sft.tmp", ""]),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    roots=st.lists(st.lists(FILES, max_size=6), min_size=1, max_size=3),
    links=st.lists(st.tuples(st.sampled_from(["link", "sub/link", "other"]), st.integers(0, 3)), max_size=3),
)
def test_what_the_host_lists_is_listed_and_found(
    tmp_path_factory: pytest.TempPathFactory, roots: list[list[tuple[str, str, str]]], links: list[tuple[str, int]]
) -> None:
    """Several folders, as `extra_model_paths.yaml` adds them, with links among them and to another disk."""
    base = tmp_path_factory.mktemp("host")
    places = [base / f"root{index}" for index in range(len(roots))]
    for place, files in zip(places, roots, strict=True):
        for folder, name, suffix in files:
            file = place / folder / f"{name}{suffix}"
            if not file.is_dir() and not any(parent.is_file() for parent in file.parents):
                put(file)
    put(base / "disk" / "deep" / "far.safetensors")
    for name, index in links:
        link = places[0] / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):
            targets = [base / "disk", base / "disk" / "deep", *places[1:]]
            link.symlink_to(targets[index % len(targets)])
    with pytest.MonkeyPatch.context() as patch:
        extensions = folders.folder_paths.supported_pt_extensions
        known = {"loras": ([str(place) for place in places], extensions), "qr_loras": ([], {".safetensors"})}
        patch.setattr(folders.folder_paths, "folder_names_and_paths", known)
        patch.setattr(folders.folder_paths, "get_output_directory", lambda: str(base / "output"))
        host = folders.folder_paths.get_filename_list_("loras")[0]
        host = [name for name in host if Path(name).suffix.lower() in (".safetensors", ".sft")]
        assert adapter_names() == sorted({f"loras/{name}".replace(os.sep, "/") for name in host})
        for name in host:
            expected = Path(folders.folder_paths.get_full_path("loras", name))
            assert adapter_path(f"loras/{name}") == expected
            if "\\" not in name:  # as a workflow has it that was made on Windows
                windows = f"loras/{name}".replace("/", "\\")
                assert adapter_path(windows) == expected
                assert Load.validate_inputs(adapter_name=windows) is True
                assert Load.fingerprint_inputs(adapter_name=windows).startswith(windows)


@pytest.mark.parametrize(
    "spelling", ["output/qr_loras/sub/cat_{}.safetensors", "output\\qr_loras\\sub\\cat_{}.safetensors"]
)
def test_a_pair_is_found_whichever_way_slashes_lean(place: Place, spelling: str) -> None:
    for noise in ("high", "low"):
        put(place.output / "sub" / f"cat_{noise}.safetensors")
    half = half_of(spelling.format("high"))
    assert half is not None
    assert (half.noise, half.other) == ("high", "output/qr_loras/sub/cat_low.safetensors")


@pytest.mark.parametrize("name", ["Cat.SAFETENSORS", "cat.sft", "v1: c.SafeTensors", "far/cat.safetensors"])
def test_what_is_listed_is_loaded_with_the_pictures_beside_it(place: Place, name: str) -> None:
    (place.loras / "far").symlink_to(place.outside)
    made = save_adapter(_adapter(), place.base / "made.safetensors")
    file = (place.loras / name).resolve()
    made.rename(file)
    for picture in ("png", "preview.JPG"):
        put(file.with_name(f"{file.stem}.{picture}"))
    file.with_name(f"{file.stem}_secret.png").symlink_to(put(place.base / "secret.png"))
    listed = f"loras/{name}"
    assert listed in adapter_names()
    assert with_preview(adapter_names()) == {listed}
    beside = [path.name for path in pictures_beside(adapter_path(listed))]
    assert beside == [f"{file.stem}.png", f"{file.stem}.preview.JPG"]
    assert Load.execute(listed).args[0].name == file.name


@pytest.mark.server
def test_a_prompt_from_another_system_runs(server: Server) -> None:
    """The host itself refuses a value that is not in its list, unless the node answers for it."""
    save_adapter(_adapter(), server.output_dir / "qr_loras" / "from windows" / "cat.safetensors")
    for name in ("output\\qr_loras\\from windows\\cat.safetensors", "output/qr_loras\\from windows/cat.safetensors"):
        prompt = {
            "1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": name}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
        assert server.queue(prompt)["outputs"]["1"]["text"][0].startswith("cat.safetensors: 1 layers")


@pytest.mark.parametrize("prefix", ["link/cat", "link/new/cat", "link/../link/cat", "%year%/cat", "animals/link/cat"])
def test_writing_through_a_link_that_leads_outside_is_refused(place: Place, prefix: str) -> None:
    year = new_output_path("%year%").name[:4]
    (place.output / "animals").mkdir()
    for link in ("link", year, "animals/link"):
        (place.output / link).symlink_to(place.outside, target_is_directory=True)
    before = place.contents() | set(place.outside.rglob("*"))
    with pytest.raises(AdapterFileError, match=r"filename_prefix .*(is a link to|leads out of)"):
        new_output_path(prefix)
    assert place.contents() | set(place.outside.rglob("*")) == before


def test_a_file_that_is_a_link_is_replaced_not_followed(place: Place) -> None:
    """Between the choice of a name and the writing, or on a system that ignores case."""
    path = new_output_path("cat")
    path.symlink_to(place.outside / "secret.safetensors")
    save_adapter(_adapter(), path)
    assert not path.is_symlink()
    assert (place.outside / "secret.safetensors").read_bytes() == b"secret"


def _adapter() -> object:
    import torch

    from comfyui_qr_lora.qrlora_core import Layer, QRLoRA

    return QRLoRA({"a.layer": Layer.single(torch.eye(4, 2), torch.ones(2, 4))})


# Checkpoints


@pytest.mark.parametrize(
    "name",
    [
        "../qr_loras/checkpoints/run_00001/step_00000001.safetensors",
        "run_00001/../run_00001/step_00000001.safetensors",
        "./run_00001/step_00000001.safetensors",
        "run_00001/step_00000001.safetensors\n",
        "run_00001/step_00000001.safetensors/",
        "run_00001/step_00000001.safetensors:stream",
        "run_00001//step_00000001.safetensors",
        "run_00001%2fstep_00000001.safetensors",
        "C:run_00001/step_00000001.safetensors",
        "../run_00001/step_00000001.safetensors",
        "..\\outside\\run_00001\\step_00000001.safetensors",
        "\\\\server\\run_00001\\step_00000001.safetensors",
        "run_00001/step_٠٠٠٠٠٠٠١.safetensors",
        "a" * 5000 + "_00001/step_00000001.safetensors",
        "run_00001/\0",
    ],
)
def test_resuming_takes_no_other_spelling_of_a_checkpoint(place: Place, name: str) -> None:
    put(place.checkpoints / "run_00001" / "step_00000001.safetensors")
    assert checkpoints.checkpoint_path("run_00001/step_00000001.safetensors").is_file()
    with pytest.raises(AdapterFileError, match="resume_from: no checkpoint"):
        checkpoints.checkpoint_path(name)


@pytest.mark.parametrize("kind", ["file", "run", "checkpoints"])
def test_checkpoints_through_links_that_lead_outside(place: Place, kind: str) -> None:
    name = "run_00001/step_00000001.safetensors"
    link = {"file": place.checkpoints / name, "run": place.checkpoints / "run_00001"}.get(kind, place.checkpoints)
    target = {"file": place.outside / name, "run": place.outside / "run_00001"}.get(kind, place.outside)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(AdapterFileError, match=r"resume_from 'run_00001/.*is a link to .*extra_model_paths") as caught:
        checkpoints.checkpoint_path(name)
    assert str(link) in str(caught.value)
    assert checkpoints.checkpoint_names() == []
    assert checkpoints.latest_checkpoint("run") is None
    if kind == "run":  # not looked into, and its name is taken
        link.unlink()
        link.symlink_to(place.base / "nowhere")
        assert checkpoints.new_run("run", 1).folder.name == "run_00002"
    if kind == "checkpoints":
        with pytest.raises(AdapterFileError, match=r"run_name 'run': .* is a link to"):
            checkpoints.new_run("run", 1)


@pytest.mark.parametrize(
    "name", ["cat\n", "CON.x", "a" * 300, "..", "a:b", "a<b>", "\0", "\udcff", "a/../b", "%2e/..", "/tmp/x", "C:\\x"]
)
def test_run_names_stay_inside(place: Place, name: str) -> None:
    with pytest.raises((TrainingError, AdapterFileError), match="run_name"):
        checkpoints.new_run(name, 1)
    assert not place.checkpoints.exists()


def test_foreign_folders_among_the_runs_do_no_harm(place: Place) -> None:
    for folder in ("<b>_00001", "a_²", ".hidden_00001", "_00001", "x\n_00001"):
        put(place.checkpoints / folder / "step_00000001.safetensors")
    (place.checkpoints / "run_00007").mkdir()
    (place.checkpoints / "run_00007" / "step_00000002.safetensors").symlink_to(place.output / "gone")
    assert checkpoints.checkpoint_names() == []
    assert checkpoints.new_run("run", 1).folder == place.checkpoints / "run_00008"


# Any text at all

PIECES = [
    "..", ".", "", " ", "/", "\\", "//", ":", "C:", "~", "\0", "\n", "%2e", "..%2f", "con", "nul.txt", "link", "deep",
    "cat", "file", "cat.safetensors", "secret.safetensors", "outside", "run_00001", "step_00000001.safetensors",
    "checkpoints", "qr_loras", "loras", "output", "x" * 300, "\u202e", "\udcff", "<b>", "é", "%year%",
]  # fmt: skip
PATHS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=8).map("".join) | st.lists(
    st.sampled_from(PIECES), max_size=6
).map("/".join)


@pytest.fixture
def woven(place: Place) -> Iterator[Place]:
    """With good files, links inside and links outside."""
    for file in ("cat.safetensors", "deep/cat.safetensors"):
        for root in place.roots:
            put(root / file)
    put(place.checkpoints / "run_00001" / "step_00000001.safetensors")
    for root in place.roots:
        (root / "link").symlink_to(place.outside)
        (root / "deep" / "link").symlink_to(place.base)
        (root / "file").symlink_to(place.outside / "secret.safetensors")
    return place


many = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@many
@given(label=st.sampled_from([*LABELS, "", "x"]), name=PATHS)
@example("loras", "cat.safetensors")
@example("loras", "link/secret.safetensors")
@example("loras", "deep/link/outside/secret.safetensors")
@example("loras", "../../outside/secret.safetensors")
def test_any_name_is_read_inside_or_refused(woven: Place, label: str, name: str) -> None:
    """Inside but for links that somebody made."""
    try:
        path = adapter_path(f"{label}/{name}")
    except AdapterFileError:
        return
    assert any(Path(os.path.normpath(path)).is_relative_to(root) for root in woven.roots)
    through_link = any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(woven.base))
    assert woven.holds(path) or through_link
    assert path.read_bytes() == (b"" if woven.holds(path) else b"secret")


@many
@given(name=PATHS)
@example("link/cat")
@example("deep/link/outside/cat")
@example("../cat")
def test_any_prefix_is_written_inside_or_refused(woven: Place, name: str) -> None:
    before = woven.contents()
    try:
        path = new_output_path(name)
    except AdapterFileError as error:
        path, refusal = None, str(error)
    assert woven.contents() == before
    if path is None:
        assert "filename_prefix" in refusal
        return
    assert woven.holds(path)
    assert path.is_relative_to(woven.output)
    assert not path.exists()
    assert path.suffix == ".safetensors"
    assert folders.adapter_path(folders.name_of(put(path))) == path  # and can be read again
    path.unlink()
    for folder in path.relative_to(woven.output).parents:
        if not any((woven.output / folder).iterdir()):
            (woven.output / folder).rmdir()


@many
@given(name=PATHS)
@example("run_00001/step_00000001.safetensors")
@example("../../../outside/run_00001/step_00000001.safetensors")
def test_any_checkpoint_is_read_inside_or_refused(woven: Place, name: str) -> None:
    try:
        path = checkpoints.checkpoint_path(name)
    except AdapterFileError:
        return
    assert path == woven.checkpoints / "run_00001" / "step_00000001.safetensors"


@many
@given(name=PATHS)
def test_any_run_name_is_written_inside_or_refused(woven: Place, name: str) -> None:
    try:
        folder = checkpoints.new_run(name, 1).folder
    except QRLoRAError as error:
        folder, refusal = None, str(error)
    if folder is None:
        assert "run_name" in refusal
        return
    assert folder.parent == woven.checkpoints
    assert woven.holds(folder)
    assert not folder.exists()
