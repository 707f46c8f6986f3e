"""Framings: the rules that cut a stream of bytes into messages, and write the mark or the length of a reply."""

from __future__ import annotations

from pronghorn.framing.chosen import Chosen as Chosen
from pronghorn.framing.chosen import chosen as chosen
from pronghorn.framing.counted import Counted as Counted
from pronghorn.framing.counted import OctetCounted as OctetCounted
from pronghorn.framing.counted import counted as counted
from pronghorn.framing.counted import netstring as netstring
from pronghorn.framing.counted import octet_counted as octet_counted
from pronghorn.framing.marks import Delimited as Delimited
from pronghorn.framing.marks import Lines as Lines
from pronghorn.framing.marks import Marked as Marked
from pronghorn.framing.marks import Stream as Stream
from pronghorn.framing.marks import TextLines as TextLines
from pronghorn.framing.marks import delimited as delimited
from pronghorn.framing.marks import lines as lines
from pronghorn.framing.marks import marked as marked
from pronghorn.framing.marks import stream as stream
from pronghorn.framing.named import NAMES as NAMES
from pronghorn.framing.named import parse as parse
from pronghorn.framing.prefixes import Fixed as Fixed
from pronghorn.framing.prefixes import Header as Header
from pronghorn.framing.prefixes import Prefixed as Prefixed
from pronghorn.framing.prefixes import Varint as Varint
from pronghorn.framing.prefixes import fixed as fixed
from pronghorn.framing.prefixes import prefixed as prefixed
from pronghorn.framing.prefixes import varint as varint
from pronghorn.framing.rule import Cutter as Cutter
from pronghorn.framing.rule import Framing as Framing
from pronghorn.framing.rule import Place as Place
