"""Speech from espeak-ng, through the shared library in the package `espeakng-loader`; no program is needed.

espeak-ng's output depends on what its process said before, so a list of utterances is always spoken by a fresh process,
in order: the same list gives the same bytes. This module is that process too:
`python -m ranker.data.benchmarks.espeak UTTERANCES.json WAVEFORMS.npz`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranker.errors import MissingError, RankerError

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2  # audio goes to the callback, and a call returns when all is said
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What is said, and by whom: `voice` is a language and a variant, as in `en-us+f2`; `rate` is in words a minute.

    `pitch` and `pitch_range` (how lively the melody is) go from 0 to 99; 50 is espeak-ng's own.
    """

    text: str
    voice: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50


def speak(utterances: Sequence[Utterance]) -> tuple[list[npt.NDArray[np.float32]], int]:
    """Each utterance as float32 (T,) in [-1, 1), and their sample rate in Hz.

    Raises MissingError where espeakng-loader is not installed, RankerError where espeak-ng refuses a voice or dies.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise MissingError("the package espeakng-loader is not installed; install ranker with its extra `demo`")
    with tempfile.TemporaryDirectory(prefix="ranker-espeak-") as folder:
        asked, spoken = Path(folder, "utterances.json"), Path(folder, "waveforms.npz")
        asked.write_text(json.dumps([asdict(utterance) for utterance in utterances]), encoding="utf-8")
        command = [sys.executable, "-m", "ranker.data.benchmarks.espeak", str(asked), str(spoken)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RankerError(f"espeak-ng failed with status {done.returncode}: {done.stderr.strip()[-500:]}")
        with np.load(spoken) as arrays:
            samples, ends, rate = arrays["samples"], arrays["ends"], int(arrays["sample_rate_hz"])
    waveforms = np.split(samples.astype(np.float32) / np.float32(32768), ends[:-1])
    return waveforms, rate


def main(arguments: Sequence[str]) -> None:
    """Speak the utterances of a JSON file, in order, into an .npz file (`samples` int16, `ends`, `sample_rate_hz`)."""
    asked, spoken = map(Path, arguments)
    utterances = [Utterance(**fields) for fields in json.loads(asked.read_text(encoding="utf-8"))]
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        sys.exit("espeak-ng did not start: its data folder cannot be read")
    pieces: list[npt.NDArray[np.int16]] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        return 0

    callback = _CALLBACK(collect)  # kept in a variable: the library holds no reference to it
    library.espeak_SetSynthCallback(callback)
    ends = [0]
    for utterance in utterances:
        # Breathy voices draw noise from two generators that espeak-ng seeds with the time of day.
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)
        if library.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
            sys.exit(f"espeak-ng has no voice {utterance.voice!r}")
        for parameter, value in ((_RATE, utterance.rate), (_PITCH, utterance.pitch), (_RANGE, utterance.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        text = utterance.text.encode() + b"\0"
        before = len(pieces)
        status = library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _UTF8, None, None)
        if status != 0 or len(pieces) == before:
            sys.exit(f"espeak-ng said nothing for {utterance.text!r} with voice {utterance.voice!r} (status {status})")
        ends.append(ends[-1] + sum(len(piece) for piece in pieces[before:]))
    np.savez(spoken, samples=np.concatenate(pieces), ends=np.array(ends[1:]), sample_rate_hz=np.array(rate))


if __name__ == "__main__":
    main(sys.argv[1:])
