"""Calls that both checkers refuse: each statement with `# wrong`, and no other."""

import pronghorn
import pronghorn.testing
from pronghorn.testing import FakeTransport, serving

pronghorn.serve("upper", workers="two")  # wrong: no whole number
pronghorn.serve("upper", worker=2)  # wrong: no such setting
pronghorn.serve("upper", model="epol")  # wrong: no such model
pronghorn.serve("upper", bind=8000)  # wrong: no address
pronghorn.serve("upper", reload="yes")  # wrong: neither true nor false
pronghorn.serve(3)  # wrong: no handler
pronghorn.server("upper")  # wrong: no such name
handler = pronghorn.Handler  # wrong: no such name
pronghorn.testing.served_by("upper")  # wrong: no such name
server = pronghorn.testing.Serve  # wrong: no such name
serving("upper", model="epol")  # wrong: no such model
serving(3)  # wrong: no handler
serving("upper", drain=2)  # wrong: no such setting
FakeTransport("upper")  # wrong: no protocol
