"""Bytes of public protocols as they go over the wire, and how each was come by.

The first part is what tests/make_captures.py printed (hl7 0.4.5, pymodbus 3.16, redis 8.1, rfc5424-logging-handler 1.4,
Python 3.12's logging, pyiso8583 4.0 behind two bytes of length, simplefix 1.0, pynetstring 0.5). The second part is
written after the specification, where no client of a public library was to be had.
"""

MLLP = (
    b"\x0bMSH|^~\\&|LAB|WARD 4|EHR|MAIN|20260301120000||ORU^R01|1|P|2.5\rPID|1||4711^^^MAIN||DOE^JA"
    b"NE\rOBX|1|NM|HR^heart rate||72|/min\x1c\r\x0bMSH|^~\\&|LAB|WARD 4|EHR|MAIN|20260301120000||OR"
    b"U^R01|2|P|2.5\rPID|1||4711^^^MAIN||DOE^JANE\rOBX|1|NM|HR^heart rate||72|/min\x1c\r"
)
MODBUS = b"\x00\x01\x00\x00\x00\x06\x11\x03\x00\x10\x00\x02\x00\x02\x00\x00\x00\x06\x11\x06\x00\x01\x04\xd2"
RESP = (
    b"*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$8\r\nredis-py\r\n*4\r\n$6\r\nCLIENT\r"
    b"\n$7\r\nSETINFO\r\n$7\r\nLIB-VER\r\n$5\r\n8.1.0\r\n*3\r\n$3\r\nSET\r\n$4\r\nherd\r\n$5\r\n12\r"
    b"\n\x00\r\n*2\r\n$3\r\nGET\r\n$4\r\nherd\r\n"
)
SYSLOG_COUNTED = (
    b"73 <12>1 2026-11-26T07:28:33.937663+00:00 gate watch 7 - - \xef\xbb\xbfa gate is open66 <11>1"
    b" 2026-11-26T07:28:33.938868+00:00 gate watch 7 M1 - \xef\xbb\xbfzw\xc3\xb6lf"
)
SYSLOG_LINES = (
    b"<12>1 2026-11-26T07:28:33.942873+00:00 gate watch 7 - - \xef\xbb\xbfa gate is open\n<11>1 2026"
    b"-11-26T07:28:33.943063+00:00 gate watch 7 M1 - \xef\xbb\xbfzw\xc3\xb6lf\n"
)
SYSLOG_OF_PYTHON = b"<12>a gate is open\x00<11>two\nlines\x00"
ISO_8583 = b"\x00-080080200000000000000400000000000000000001301\x00202005000000000000000164000000000000002000000001000"
FIX = (
    b"8=FIX.4.4\x019=47\x0135=A\x0149=HERD\x0156=DESK\x0134=1\x0152=20260301-12:00:00\x0110=085\x018=F"
    b"IX.4.4\x019=47\x0135=0\x0149=HERD\x0156=DESK\x0134=2\x0152=20260301-12:00:00\x0110=069\x01"
)
NETSTRINGS = b"3:one,0:,6:t\x00,:wo,"

# GT06 (Concox): a login as the protocol's document shows it; a heartbeat whose serial number, 3338, is CR LF; and one
# of the longer packets, whose length has two bytes (information transmission, 0x94: a voltage). CRC-ITU by calculation.
GT06 = (
    bytes.fromhex("78780d01012345678901234500018cdd0d0a"),
    bytes.fromhex("78780a1344040400010d0a544d0d0a"),
    bytes.fromhex("79790008940004b00003c0140d0a"),
)
# JT/T 808 (trackers in China): a terminal's heartbeat, 0x0002, between two flags; 0x7e within is escaped.
JT808 = bytes.fromhex("7e000200000139123456780001337e7e000200000139123456780002307e")
# Protocol buffers behind varints, as writeDelimitedTo writes them: {1: 150}, and {2: "x" * 200}.
PROTOBUF = b"\x03\x08\x96\x01\xcb\x01\x12\xc8\x01" + b"x" * 200
