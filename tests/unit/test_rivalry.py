"""Two programs that fight over the hosts file: what counts, what is said, how long passes wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apiha.hosts.rivalry import FIGHT, MAX_PAUSE, WINDOW, Rivalry, checksum, load, save
from apiha.hosts.text import splice

HOST = "apiserver.cluster.local"
NOW = 1_800_000_000.0
OURS, OTHER = 1, 2  # checksums


def after(rounds: int, *, start: float = NOW) -> Rivalry:
    """The score after so many changes by another program, a second apart, each put right."""
    score = Rivalry(wrote=OURS)
    for number in range(rounds):
        score = score.after(start + number, OTHER, OURS)
    return score


def test_what_apiha_wrote_itself_is_no_change_by_others() -> None:
    """Pin, swap and pin again: nobody took anything away."""
    score = Rivalry().after(NOW, 0, OURS).after(NOW + 1, OURS, OTHER).after(NOW + 2, OTHER, OURS)
    assert (score.theirs, score.ours) == ((), ())


def test_a_block_that_is_not_the_one_that_was_written_counts() -> None:
    """Once for them, who changed it, and once for apiha, which put it back."""
    score = Rivalry().after(NOW, 0, OURS).after(NOW + 1, OTHER, OURS)
    assert (score.theirs, score.ours) == ((NOW + 1,), (NOW + 1,))


def test_a_foreign_line_that_is_there_again_counts() -> None:
    """The block itself may be as apiha wrote it."""
    assert Rivalry(wrote=OURS).after(NOW, OURS, OURS, foreign=True).theirs == (NOW,)


def test_after_unpin_it_begins_anew() -> None:
    """What is there before the next pin was not taken away from anybody."""
    score = Rivalry(wrote=OURS).after(NOW, OURS, None).after(NOW + 1, 0, OURS)
    assert score.theirs == ()


@pytest.mark.parametrize(
    ("rounds", "fighting", "pause"),
    [
        (1, False, 0.0),
        (FIGHT - 1, False, 0.0),
        (FIGHT, True, 1.0),
        (FIGHT + 1, True, 2.0),
        (FIGHT + 4, True, 16.0),
        (FIGHT + 5, True, MAX_PAUSE),
        (FIGHT + 5000, True, MAX_PAUSE),
    ],
)
def test_passes_slow_down_up_to_a_bound(rounds: int, fighting: bool, pause: float) -> None:
    """The wait doubles with each round of a fight."""
    score = replace(Rivalry(), theirs=tuple(NOW for _ in range(rounds)))
    assert (score.fighting, score.pause) == (fighting, pause)


def test_only_the_last_hour_counts() -> None:
    """A fight that is over is forgotten, and said again when there is another one."""
    score = replace(after(FIGHT), said=True)
    assert score.at(NOW + 60).said
    over = score.at(NOW + WINDOW + FIGHT)
    assert (over.theirs, over.ours, over.said) == ((), (), False)


def test_a_clock_that_was_set_back_forgets() -> None:
    """Changes in the future do not count for ever."""
    assert after(FIGHT).at(NOW - 1).theirs == ()


def test_a_write_that_never_came_through_is_theirs() -> None:
    """They changed the file faster than apiha could write it."""
    score = Rivalry(wrote=OURS).lost(NOW)
    assert (score.theirs, score.ours) == ((NOW,), ())


def test_the_score_in_words() -> None:
    """Who won how often."""
    assert after(12).lost(NOW + 12).words == (
        "another program changed the block 13 times in the last hour, apiha put it back 12 times"
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """And the file stays small."""
    path = tmp_path / "state"
    score = replace(after(20), said=True)
    save(path, score)
    assert load(path) == score
    save(path, after(2_000).at(NOW + 2_000))
    assert path.stat().st_size < 32_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"theirs": 1, "ours": [], "wrote": 1, "said": true}',
        '{"theirs": ["x"], "ours": [], "wrote": 1, "said": true}',
        '{"theirs": [1e999], "ours": [], "wrote": 1e999, "said": true}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: str) -> None:
    """Nothing depends on it."""
    path = tmp_path / "state"
    path.write_text(text, errors="surrogatepass")
    assert load(path) == Rivalry()
    assert load(tmp_path) == load(tmp_path / "missing") == Rivalry()


def test_where_it_cannot_be_saved_nothing_happens(tmp_path: Path) -> None:
    """No state directory, no count."""
    save(tmp_path / "missing" / "state", after(3))


def test_only_the_block_is_in_the_checksum() -> None:
    """Lines of others around it are theirs."""
    data = splice(b"127.0.0.1 a\n", HOST, ["10.0.0.1"]).data
    assert checksum(data) == checksum(data + b"127.0.0.1 b\n")
    assert checksum(data) != checksum(splice(data, HOST, ["10.0.0.2"]).data)
