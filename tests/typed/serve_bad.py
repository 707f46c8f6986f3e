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
pronghorn.serve(listeners=[{"bind": ":5000", "workers": 2}])  # wrong: one of the whole server
pronghorn.Listener(bind=":5000", tls="maybe")  # wrong: no such word
pronghorn.serve(listeners=pronghorn.Listener(bind=":5000"))  # wrong: one, and no list
pronghorn.server("upper")  # wrong: no such name
handler = pronghorn.Handler  # wrong: no such name
pronghorn.testing.served_by("upper")  # wrong: no such name
server = pronghorn.testing.Serve  # wrong: no such name
serving("upper", model="epol")  # wrong: no such model
serving(3)  # wrong: no handler
serving("upper", drain=2)  # wrong: no such setting
FakeTransport("upper")  # wrong: no protocol
