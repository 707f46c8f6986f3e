"""The PROXY header, against what somebody hostile may send: `python proof/fuzz.py SECONDS` lets atheris look for it.

Law: whatever comes is a header or is refused with BadProxyHeader, and how it was split changes neither. Without
atheris, hypothesis alters good headers.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ledger_trials import Result
from pronghorn.connection.proxy_protocol import SIGNATURE, HeaderReader, ProxyHeader
from pronghorn.errors import BadProxyHeader

EXAMPLES = 2000  # between two looks at the clock
GOOD = (
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 80\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 65535 1\r\n",
    b"PROXY UNKNOWN\r\n",
    SIGNATURE + b"\x21\x11\x00\x0f" + b"\xc0\0\2\1\xc6\x33\x64\2\x12\x67\0\x50" + b"\5\0\0",
    SIGNATURE + b"\x21\x21\x00\x2c" + b"\x20\1\x0d\xb8" * 8 + b"\0\1\0\2" + b"\3\0\4\0\0\0\0\1",
    SIGNATURE + b"\x20\x00\x00\x00",
)


def read(data: bytes, most: int) -> ProxyHeader | str | None:
    """The header, or that it was refused; None if it is not whole. `most` bytes are fed at once."""
    reader = HeaderReader()
    while data and reader.needs:
        piece = data[: min(most, reader.needs)]
        data = data[len(piece) :]
        try:
            header = reader.feed(piece)
        except BadProxyHeader as error:
            assert str(error).isprintable(), error
            return "refused"
        if header is not None:
            list(header.fields())
            return header
    return None


def look_at(data: bytes) -> None:
    """AssertionError, or whatever escapes, if the law does not hold for these bytes."""
    whole, split = read(data, 65536), read(data, 1)
    assert whole == split or sorted(map(str, (whole, split))) == ["None", "refused"], (data, whole, split)


def fuzz(seconds: float) -> Result:
    """Look for so long."""
    if importlib.util.find_spec("atheris") is not None:
        return _by_atheris(seconds)
    result = Result("R14 PROXY header")
    result.figures["atheris"] = "skipped: it is not installed (the dependency group fuzz; not every Python has it)"
    return _by_hypothesis(result, seconds)


def _by_atheris(seconds: float) -> Result:
    result = Result("R14 PROXY header")
    done = subprocess.run([sys.executable, __file__, f"{seconds:.0f}"], capture_output=True, text=True)
    result.expect(done.returncode == 0, done.stderr[-1000:])
    runs = re.search(r"Done (\d+) runs", done.stderr)
    result.figures["executions"] = f"{int(runs[1]):,}, by atheris" if runs else "unknown"
    return result


def _by_hypothesis(result: Result, seconds: float) -> Result:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    def alter(good: bytes, at: int, more: bytes, length: int) -> bytes:
        at %= len(good) + 1
        return good[:at] + more + good[at + length :]

    altered = st.builds(alter, st.sampled_from(GOOD), st.integers(0, 250), st.binary(max_size=12), st.integers(0, 12))
    count = 0

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(altered | st.binary(max_size=300))
    def each(data: bytes) -> None:
        nonlocal count
        count += 1
        look_at(data)

    until = time.monotonic() + seconds
    while time.monotonic() < until and not result.faults:
        try:
            each()
        except Exception as error:
            result.faults.append(f"{type(error).__name__}: {error}")
    result.figures["executions"] = f"{count:,}, by hypothesis"
    return result


def main() -> None:
    import atheris  # type: ignore[import-not-found]

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={sys.argv[1]}", "-max_len=600"], look_at)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
