"""Metrics of a node: their text, when it is written, and that promtool finds nothing to say about them."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import stat
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from apiha import textfile
from apiha.cli.main import cli
from apiha.cli.options import Invocation
from apiha.config import Config, load
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, ExitCode, NoControlPlane
from apiha.failfast.metrics import families as fail_fast_families
from apiha.failfast.table import Breaker, Table
from apiha.install.install import _doubt, _remove_metrics, install, uninstall
from apiha.install.tree import Tree
from apiha.install.units import DROP_INS, TEXTFILE, folder_of, textfile_drop_in
from apiha.log import Reporter
from apiha.node.context import Node
from apiha.node.pin import pin
from apiha.node.reconcile import reconcile
from apiha.paths import CONFIG_FILE, UNIT_DIR
from apiha.preview import Preview
from apiha.probe import Health
from apiha.status.checks import judge
from apiha.status.metrics import LAST_SUCCESS, STATES, block_state, families
from apiha.status.textfile import told
from apiha.userdata.pieces import Plan, Program, ignition
from tests.support.world import READY, REFUSED, VIP, World, events, with_config
from tests.unit.test_docs import page, rows, section, words
from tests.unit.test_status import HEALTHY, NOW, OWN, PINNED, A, B, C, answers, block, said

REPOSITORY = Path(__file__).resolve().parents[2]
SILENT = Table(
    "pods",
    "0123",
    frozenset({A, B}),
    (
        Breaker(A, "node", 4, silences=2, cut=3, refused=12),
        Breaker(A, "pods"),
        Breaker(B, "node"),
        Breaker(B, "pods"),
    ),
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def samples(text: str) -> dict[str, float]:
    """Name with labels to value."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def everything() -> str:
    """All metrics there are, as a node with a problem and with a silent control plane writes them."""
    seen = replace(HEALTHY, answers=answers(said(A, Health.TIMEOUT), said(B), said(C), vip=said(VIP)))
    return textfile.render([*families(judge(seen), 1763879400.0), *fail_fast_families(SILENT)])


# ------------------------------------------------------------------------------------------------------ the text


def test_a_swapped_node() -> None:
    """The VIP first, one control plane dead, which is a warning."""
    found = samples(everything())
    assert found['apiha_node_block_state{state="swapped"}'] == 1
    assert sum(found[f'apiha_node_block_state{{state="{state}"}}'] for state in STATES) == 1
    assert found[f'apiha_node_address_info{{address="{VIP.address}"}}'] == 1
    assert found["apiha_node_vip_up"] == 1
    assert [found[f'apiha_node_control_plane_up{{address="{plane}"}}'] for plane in (A, B, C)] == [0, 1, 1]
    assert found[LAST_SUCCESS] == 1763879400
    assert found['apiha_node_problems{severity="error"}'] == 0
    assert found['apiha_node_problems{severity="warning"}'] == 1
    assert found['apiha_node_problem{code="control-plane-down",severity="warning"}'] == 1
    expires = f'apiha_node_certificate_expiry_timestamp_seconds{{address="{B}"}}'
    assert found[expires] - NOW.timestamp() == 365 * 86400
    assert f'apiha_node_certificate_expiry_timestamp_seconds{{address="{A}"}}' not in found


def test_the_states_of_a_block() -> None:
    """Swapped, pinned, a control-plane node's own, and neither."""
    own = replace(HEALTHY, config=replace(HEALTHY.config, role="control-plane"))
    hosts = replace(HEALTHY.hosts, block=block(OWN.address, A.address))
    assert block_state(HEALTHY) == "swapped"
    assert block_state(replace(HEALTHY, hosts=PINNED)) == "pinned"
    assert block_state(replace(own, hosts=hosts)) == "own"
    assert block_state(replace(HEALTHY, hosts=hosts)) == "neither"
    assert block_state(replace(HEALTHY, hosts=replace(HEALTHY.hosts, block=None))) == "neither"


def test_fail_fast_loaded_and_not() -> None:
    """A breaker's state and counts, for the node and for Pods; one zero where there is no table."""
    found = samples(textfile.render(fail_fast_families(SILENT)))
    labels = f'{{address="{A}",clients="node"}}'
    names = ("silent", "silences_total", "cut_connections_total", "refused_connections_total")
    assert [found[f"apiha_node_fail_fast_{name}{labels}"] for name in names] == [1, 2, 3, 12]
    assert found[f'apiha_node_fail_fast_silent{{address="{B}",clients="pods"}}'] == 0
    assert samples(textfile.render(fail_fast_families(None))) == {"apiha_node_fail_fast_loaded": 0}


def test_labels_are_escaped() -> None:
    """By the rules of the format: backslash, quote, line feed."""
    family = textfile.gauge("x", 'a "b"\nc\\', 0.5, label='a"\\\n')
    assert textfile.render([family]) == (
        '# HELP x a "b"\\nc\\\\\n# TYPE x gauge\nx{label="a\\"\\\\\\n"} 0.5\n'
    )


@needs_promtool
def test_promtool_finds_nothing_to_say() -> None:
    """Names, types and help are as Prometheus' own linter wants them."""
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=everything(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_metric_is_documented() -> None:
    """The page names each with its type and labels, and no others."""
    listed = {
        words(row[0]): (words(row[1]), {word.strip() for word in words(row[2]).split(",")} - {""})
        for row in rows(section(page("monitoring.md"), "## Metrics of a node"))[1:]
    }
    seen = [*families(judge(replace(HEALTHY, answers=HEALTHY.answers[1:])), 0.0), *fail_fast_families(SILENT)]
    seen += families(judge(replace(HEALTHY, hosts=PINNED)), 0.0)  # which has a problem
    exported = {f.name: (f.kind, set(f.samples[0].labels)) for f in seen if f.samples}
    assert listed == exported


# ----------------------------------------------------------------------------------------- alerts and the dashboard


@needs_promtool
def test_each_alert_about_nodes_fires_for_what_it_is_for_and_for_nothing_else() -> None:
    """As Prometheus itself evaluates them."""
    folder = REPOSITORY / "deploy/prometheus"
    command = ["promtool", "test", "rules", "apiha-node-rules-test.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_dashboard_s_queries_about_nodes_are_valid(tmp_path: Path) -> None:
    """With Grafana's variables filled in, promtool reads each."""
    document = json.loads((REPOSITORY / "deploy/grafana/apiha.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in document["panels"] for target in panel.get("targets", [])]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
        if "apiha_node_" in query
    ]
    assert len(rules) > 8
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_what_grafana_s_schema_requires_and_no_two_panels_in_one_place() -> None:
    """Ids are unique; legends and tooltips are whole (`VizLegendOptions`, `VizTooltipOptions` of @grafana/schema)."""
    panels = json.loads((REPOSITORY / "deploy/grafana/apiha.json").read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23
    whole = {"legend": {"calcs", "displayMode", "placement", "showLegend"}, "tooltip": {"mode", "sort"}}
    for options in (panel.get("options", {}) for panel in panels):
        assert {key: set(options[key]) for key in whole if key in options}.items() <= whole.items()


@pytest.mark.parametrize("file", ["deploy/prometheus/apiha-rules.yaml", "deploy/grafana/apiha.json"])
def test_alerts_and_dashboard_use_metrics_that_nodes_write(file: str) -> None:
    """A misspelt one would never be seen to be missing."""
    used = set(re.findall(r"\bapiha_node_\w+", (REPOSITORY / file).read_text(encoding="utf-8")))
    exported = set(re.findall(r"^# TYPE (\S+)", everything(), re.MULTILINE))
    assert used
    assert used - exported == set()


# --------------------------------------------------------------------------------------------------- when written


@pytest.fixture
def folder(node: Node, tmp_path: Path) -> Path:
    """The collector's folder, and a node that is told of it."""
    found = tmp_path / "textfile"
    found.mkdir()
    with_config(node, textfile_dir=found, insecure_skip_tls_verify=True)
    return found


def test_a_pass_writes_what_its_own_probes_found(node: Node, world: World, folder: Path) -> None:
    """No address is asked once more for it; the file is one that everybody may read, and nothing else is left."""
    world.says(VIP, READY)
    for plane in (A, B):
        world.says(plane, READY)
    before = os.umask(0o077)  # as in the units
    try:
        with told(node):
            reconcile(node)
    finally:
        os.umask(before)
    asked = len(world.asked)
    file = folder / textfile.NODE_FILE
    found = samples(file.read_text())
    assert found['apiha_node_block_state{state="swapped"}'] == 1
    assert [found[f'apiha_node_control_plane_up{{address="{plane}"}}'] for plane in (A, B, C)] == [1, 1, 0]
    assert found[LAST_SUCCESS] == pytest.approx(world.clock.now().timestamp())
    assert len(world.asked) == asked
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(folder) == [textfile.NODE_FILE]


def test_a_pass_that_fails_keeps_the_time_of_the_last_good_one(
    node: Node, world: World, folder: Path
) -> None:
    """That is what its age is measured from; without any good pass it is 0. The failure itself goes on."""
    file = folder / textfile.NODE_FILE
    with pytest.raises(NoControlPlane), told(node):
        reconcile(node)
    assert samples(file.read_text())[LAST_SUCCESS] == 0
    world.says(VIP, READY)
    with told(node):
        reconcile(node)
    good = samples(file.read_text())[LAST_SUCCESS]
    world.says(VIP, REFUSED)
    world.clock.sleep(3600)
    with pytest.raises(NoControlPlane), told(node):
        reconcile(node)
    assert samples(file.read_text())[LAST_SUCCESS] == good > 0


def test_a_folder_that_cannot_be_written_fails_nothing(node: Node, world: World, log: io.StringIO) -> None:
    """One warning that names the folder and what to do."""
    world.says(VIP, READY)
    with_config(node, textfile_dir=Path("/nowhere/at/all"), insecure_skip_tls_verify=True)
    with told(node):
        reconcile(node)
    [warning] = [event["message"] for event in events(log) if "textfile_dir" in event["message"]]
    assert warning.startswith("textfile_dir: /nowhere/at/all: cannot write metrics: No such file")


def test_a_folder_that_cannot_be_written_changes_no_exit_code_of_fail_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the kernel said is what counts."""
    from apiha.failfast import kernel

    def missing(*_: object) -> str:
        raise kernel.Unsupported("the program `nft` is not installed")

    monkeypatch.setattr(kernel, "load", missing)
    monkeypatch.setattr(kernel, "read", missing)
    config = tmp_path / "config.yaml"
    config.write_text("control_plane: [10.0.0.11]\ntextfile_dir: /nowhere/at/all\n")
    arguments = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "fail-fast", "on"]
    code = cli.main(arguments, standalone_mode=False, obj=Invocation())
    assert code == ExitCode.UNSUPPORTED
    assert "textfile_dir: /nowhere/at/all: cannot write metrics" in capsys.readouterr().err


def test_a_disk_that_is_full_keeps_the_file_that_is_there(
    node: Node, world: World, folder: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else stays either, and the pass is as good as any."""
    (folder / textfile.NODE_FILE).write_text("old 1\n")
    world.says(VIP, READY)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with told(node):
        reconcile(node)
        monkeypatch.setattr("apiha.files.overwrite", full)
    assert (folder / textfile.NODE_FILE).read_text() == "old 1\n"
    assert os.listdir(folder) == [textfile.NODE_FILE]
    [warning] = [event["message"] for event in events(log) if "textfile_dir" in event["message"]]
    assert warning == (
        f"textfile_dir: {folder}: cannot write metrics: No space left on device; make room there, or set another folder"
    )


def test_a_folder_in_the_place_of_the_file_is_named(
    node: Node, world: World, folder: Path, log: io.StringIO
) -> None:
    """That textfile_dir belongs to root helps nobody then."""
    (folder / textfile.NODE_FILE).mkdir()
    world.says(VIP, READY)
    with told(node):
        reconcile(node)
    [warning] = [event["message"] for event in events(log) if "textfile_dir" in event["message"]]
    assert warning == (
        f"textfile_dir: {folder}: cannot write metrics: {textfile.NODE_FILE} there is a folder; remove it"
    )


def test_a_folder_that_never_answers_holds_nobody(
    node: Node, world: World, folder: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is gone, say: kubelet waits for the pin that writes there."""
    world.says(VIP, READY)
    hangs = threading.Event()
    monkeypatch.setattr("apiha.textfile.LONGEST_WRITE", 0.01)
    monkeypatch.setattr("apiha.textfile.write", lambda *_: hangs.wait(30))
    with told(node):
        reconcile(node)
    hangs.set()
    [warning] = [event["message"] for event in events(log) if "textfile_dir" in event["message"]]
    assert warning == f"textfile_dir: {folder}: no answer within 0.01 s, so no metrics were written"


def test_whatever_goes_wrong_with_metrics_is_only_logged(
    node: Node, world: World, folder: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the looking, and one in the writing; the pass that failed says why it did."""

    def bug(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("apiha.textfile.render", bug)
    with pytest.raises(NoControlPlane), told(node):
        reconcile(node)
    monkeypatch.setattr("apiha.status.machine.look_after_pass", bug)
    world.says(VIP, READY)
    with told(node):
        reconcile(node)
    said = [event["message"] for event in events(log) if "metrics" in event["message"]]
    assert said == ["metrics not written: ValueError: a bug"] * 2
    assert os.listdir(folder) == []


@pytest.mark.parametrize("before", ["9e9", "NaN", "+Inf", "x", ""])
def test_a_last_good_pass_that_cannot_be_is_not_believed(
    node: Node, world: World, folder: Path, before: str
) -> None:
    """The clock was ahead, or somebody else wrote the file: the age would never grow."""
    file = folder / textfile.NODE_FILE
    file.write_text(f"{LAST_SUCCESS} {before}\n")
    with pytest.raises(NoControlPlane), told(node):
        reconcile(node)
    now = world.clock.now().timestamp()
    assert samples(file.read_text())[LAST_SUCCESS] == pytest.approx(now if before == "9e9" else 0)


def test_a_dry_run_and_a_node_that_is_told_of_no_folder_write_nothing(
    node: Node, world: World, folder: Path
) -> None:
    """And probes are not noted."""
    world.says(VIP, READY)
    node.preview = Preview(lambda _: None)
    with told(node):
        pass
    node.preview = None
    with_config(node, textfile_dir=None)
    with told(node):
        reconcile(node)
    assert node.observe is None
    assert os.listdir(folder) == []


@pytest.mark.parametrize("command", ["reconcile", "pin-host"])
def test_the_commands_write_what_real_probes_found(command: str, tmp_path: Path) -> None:
    """Nothing listens on the port; the command fails as ever, and says what it saw."""
    config, metrics = tmp_path / "config.yaml", tmp_path / "metrics"
    metrics.mkdir()
    config.write_text(
        "port: 9\ncontrol_plane: [127.0.0.11, 127.0.0.12]\nvip: 127.0.0.100\ninsecure_skip_tls_verify: true\n"
        f"textfile_dir: {metrics}\n"
    )
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    options = ["--hosts-file", str(tmp_path / "hosts"), "--state-dir", str(tmp_path / "state")]
    with pytest.raises(NoControlPlane):
        cli.main(["--config", str(config), *options, command], standalone_mode=False, obj=Invocation())
    found = samples((metrics / textfile.NODE_FILE).read_text())
    assert {name: value for name, value in found.items() if "control_plane_up" in name} == {
        'apiha_node_control_plane_up{address="127.0.0.11:9"}': 0,
        'apiha_node_control_plane_up{address="127.0.0.12:9"}': 0,
    }
    assert ("apiha_node_vip_up" in found) is (command == "reconcile")
    assert found['apiha_node_block_state{state="neither"}'] == 1
    assert found[LAST_SUCCESS] == 0
    assert found['apiha_node_problem{code="no-block",severity="error"}'] == 1


def test_a_control_plane_node_asks_in_its_reconcile_alone(node: Node, world: World, folder: Path) -> None:
    """A boot that waits for a pin is not held up by it."""
    with_config(node, role="control-plane", control_plane=(Endpoint("127.0.0.11", 9),), port=9, vip=None)
    file = folder / textfile.NODE_FILE
    with told(node):
        pin(node)
    found = samples(file.read_text())
    assert found['apiha_node_block_state{state="own"}'] == 1
    assert [name for name in found if "control_plane_up" in name] == []
    with told(node, ask=True):
        reconcile(node)
    found = samples(file.read_text())
    assert {name: value for name, value in found.items() if "control_plane_up" in name} == {
        'apiha_node_control_plane_up{address="127.0.0.1:9"}': 0,
        'apiha_node_control_plane_up{address="127.0.0.11:9"}': 0,
    }
    assert world.asked == []


@pytest.mark.parametrize("action", ["on", "off"])
def test_fail_fast_writes_what_the_kernel_says_afterwards(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone may read the table: in a file of its own."""
    from apiha.failfast import kernel

    monkeypatch.setattr(kernel, "load", lambda *_: "loaded")
    monkeypatch.setattr(kernel, "remove", lambda *_: True)
    monkeypatch.setattr(kernel, "read", lambda: SILENT if action == "on" else None)
    config = tmp_path / "config.yaml"
    config.write_text(f"control_plane: [10.0.0.11]\ntextfile_dir: {tmp_path}\n")
    arguments = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "fail-fast", action]
    cli.main(arguments, standalone_mode=False, obj=Invocation())
    found = samples((tmp_path / textfile.FAIL_FAST_FILE).read_text())
    assert found["apiha_node_fail_fast_loaded"] == (1 if action == "on" else 0)


# ------------------------------------------------------------------------------------------------------ the units


def test_the_drop_in_comes_after_those_that_empty_the_list() -> None:
    """Drop-ins are read in the order of their file names, and a later `ReadWritePaths=` adds."""
    assert TEXTFILE.partition("/")[2] > max(name.partition("/")[2] for name in DROP_INS)
    lines = textfile_drop_in(Path("/var/lib/x")).splitlines()
    assert lines[1:] == ["[Service]", "ReadWritePaths=-/var/lib/x"]
    assert folder_of(textfile_drop_in(Path("/var/lib/x"))) == Path("/var/lib/x")
    assert folder_of("[Service]\nReadWritePaths=-/var/../etc\n") is None
    assert folder_of("edited") is None


def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """The root folder of a machine to install on, where its configuration goes, and the drop-in."""
    program = ("/usr/local/bin/apiha", None)
    monkeypatch.setattr("apiha.install.install._program", lambda tree, in_image: program)
    root = tmp_path / "root"
    config, drop_in = (root / str(path).lstrip("/") for path in (CONFIG_FILE, UNIT_DIR / TEXTFILE))
    config.parent.mkdir(parents=True)
    return root, config, drop_in


def test_install_lets_the_units_write_there_and_uninstall_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a configuration that names the folder; without it the drop-in goes again."""
    root, config, drop_in = _machine(tmp_path, monkeypatch)
    report = Reporter(io.StringIO())
    (root / "var/lib/metrics").mkdir(parents=True)
    settings = {"vip": "10.96.0.100", "textfile_dir": "/var/lib/metrics"}
    install(report, root=root, settings=settings)
    assert drop_in.read_text() == textfile_drop_in(Path("/var/lib/metrics"))
    config.write_text("vip: 10.96.0.100\n")
    install(report, root=root)
    assert not drop_in.exists()
    config.write_text("vip: 10.96.0.100\ntextfile_dir: /var/lib/metrics\n")
    install(report, root=root)
    assert drop_in.exists()
    for name in (textfile.NODE_FILE, textfile.FAIL_FAST_FILE, "other.prom"):
        (root / "var/lib/metrics" / name).write_text("")
    uninstall(report, root=root, hosts_file=Path("/etc/hosts"))
    assert not drop_in.exists()
    assert os.listdir(root / "var/lib/metrics") == ["other.prom"]


def test_another_folder_and_no_folder_leave_no_files_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """node_exporter would tell of this node for ever. The drop-in knows the folder after the configuration changed."""
    root, config, drop_in = _machine(tmp_path, monkeypatch)
    report = Reporter(io.StringIO())
    folders = [root / "var/lib" / name for name in "abc"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / textfile.NODE_FILE).write_text("")
    for number, name in enumerate("ab"):
        config.write_text(f"vip: 10.96.0.100\ntextfile_dir: /var/lib/{name}\n")
        install(report, root=root)
        assert drop_in.read_text() == textfile_drop_in(Path(f"/var/lib/{name}"))
        assert [bool(os.listdir(folder)) for folder in folders] == [number == 0, True, True]
    config.write_text("vip: 10.96.0.100\ntextfile_dir: /var/lib/c\n")
    shown: list[str] = []
    uninstall(report, root=root, hosts_file=Path("/etc/hosts"), preview=Preview(shown.append))
    assert {f"would run: rm {folder / textfile.NODE_FILE}" for folder in folders[1:]} <= set(shown)
    uninstall(report, root=root, hosts_file=Path("/etc/hosts"))
    assert [os.listdir(folder) for folder in folders] == [[], [], []]


@pytest.mark.parametrize(
    ("mode", "owner", "said"),
    [
        (0o755, 0, None),
        (0o775, 4711, None),  # its group is root's
        (0o755, 4711, "not a folder of root's"),
        (0o555, 0, "not a folder of root's"),
        (None, 0, "No such file or directory"),
    ],
)
def test_install_says_where_the_units_will_be_unable_to_write(
    tmp_path: Path, mode: int | None, owner: int, said: str | None
) -> None:
    """The units have none of root's powers."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a folder of another user")
    if mode is not None:
        (tmp_path / "metrics").mkdir()
        os.chown(tmp_path / "metrics", owner, 0)
        (tmp_path / "metrics").chmod(mode)
    doubt = _doubt(Path("/metrics"), Tree(tmp_path))
    assert (doubt is None) if said is None else (doubt is not None and said in doubt)
    assert "ProtectHome" in (_doubt(Path("/home/me"), Tree(tmp_path)) or "")


def test_a_folder_that_cannot_be_cleared_stops_no_uninstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    """A warning names what is left."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / textfile.NODE_FILE).mkdir()  # which unlink(2) does not remove
    _remove_metrics(Path("/m"), Tree(tmp_path), Reporter(log, log_format="json"))
    [event] = events(log)
    assert event["message"].startswith(f"kept {tmp_path}/m/{textfile.NODE_FILE}: ")


def test_user_data_brings_the_drop_in() -> None:
    """Ignition writes the units itself, so it writes this as well."""
    settings = {"ca_file": "/etc/apiha/ca.crt", "textfile_dir": "/var/lib/metrics"}
    files, _ = ignition(Plan(settings, "", Program(archive=b"")))
    [text] = [file.text for file in files if file.path == UNIT_DIR / TEXTFILE]
    assert text == "[Service]\nReadWritePaths=-/var/lib/metrics\n"


@pytest.mark.parametrize(
    "path", ["relative", "/with space", "/a%n", '/a"b', "/a\nExecStart=/bin/sh", "/a/../b", "/"]
)
def test_a_path_that_would_not_stand_in_a_unit_is_refused(path: str) -> None:
    """It stands in a unit as it is."""
    with pytest.raises(ConfigError, match="textfile_dir"):
        load(None, {}, {"textfile_dir": path})
    assert Config().textfile_dir is None


def test_every_family_of_metrics_begins_alike() -> None:
    """`apiha_node_…`, so that one match finds them all."""
    names = re.findall(r"^# TYPE (\S+)", everything(), re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if not name.startswith("apiha_node_")] == []
