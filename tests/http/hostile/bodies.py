"""Answers whose body is wrong, endless, or a bomb."""

from __future__ import annotations

import gzip
import random
import zlib

from tests.http.hostile.behaviour import OK, Behaviour, drips, floods, says

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ZEROS = bytes(64 << 20)
GZIP_BOMB = gzip.compress(ZEROS)
DEFLATE_BOMB = zlib.compress(ZEROS)
RAW_BOMB = DEFLATE_BOMB[2:-4]
del ZEROS
EMPTY_MEMBER = gzip.compress(b"")
NAMED_MEMBER = b"\x1f\x8b\x08\x08" + bytes(6)  # what follows is a file name, up to a NUL
PACKED = OK + b"Content-Encoding: gzip\r\n\r\n"
LONG = gzip.compress(random.Random(1).randbytes(900_000))
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # stored, of no bytes


def length(value: bytes, body: bytes = b"ok") -> bytes:
    return OK + b"Content-Length: " + value + b"\r\n\r\n" + body


def packed(encoding: bytes, body: bytes) -> bytes:
    return OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)) + body


def tables() -> bytes:
    """Deflate blocks that make the reader build tables and give nothing: most work for least bytes."""
    maker = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY)
    block = maker.compress(bytes(range(256)) * 2) + maker.flush(zlib.Z_FULL_FLUSH)
    return block * (900_000 // len(block))


BODIES = (
    Behaviour("drips a body", drips(lambda _: b"x", first=length(b"100000", b"")), "RequestTimeout"),
    Behaviour("drips chunks", drips(lambda _: b"1\r\nx\r\n", first=CHUNKED), "RequestTimeout"),
    Behaviour(
        "drips a packed body",
        drips(lambda _: EMPTY_BLOCK, first=PACKED + NAMED_MEMBER[:3] + bytes(7)),
        "RequestTimeout",
    ),
    Behaviour("a length that is too long", says(length(b"10")), "BadAnswer"),
    Behaviour("a length that is too long, then silence", says(length(b"10"), then="hang"), "RequestTimeout"),
    Behaviour("a length that is too short", says(length(b"1")), "200"),
    Behaviour("a negative length", says(length(b"-1")), "BadAnswer"),
    Behaviour("a length with a sign", says(length(b"+2")), "BadAnswer"),
    Behaviour("a length in hexadecimal", says(length(b"0x2")), "BadAnswer"),
    Behaviour("two lengths in one", says(length(b"2, 2")), "BadAnswer"),
    Behaviour("a length beyond 64 bits", says(length(b"9" * 30)), "BadAnswer"),
    Behaviour("a length of an exabyte", says(length(b"1" + b"0" * 18)), "response_too_large"),
    Behaviour("two different lengths", says(OK + b"Content-Length: 3\r\n" + length(b"2")[17:]), "BadAnswer"),
    Behaviour("length and chunks", says(OK + b"Content-Length: 2\r\n" + CHUNKED[17:] + b"0\r\n\r\n"), "BadAnswer"),
    Behaviour("chunks and length", says(CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n0\r\n\r\n"), "BadAnswer"),
    Behaviour("a chunk beyond 64 bits", says(CHUNKED + b"F" * 17 + b"\r\nab\r\n"), "BadAnswer"),
    Behaviour("a negative chunk", says(CHUNKED + b"-1\r\nab\r\n"), "BadAnswer"),
    Behaviour("a chunk that is none", says(CHUNKED + b"zz\r\nab\r\n", then="hang"), "BadAnswer"),
    Behaviour(
        "good chunks, then none", says(CHUNKED + b"2\r\nok\r\n", b"zz\r\n", every=0.05, then="hang"), "BadAnswer"
    ),
    Behaviour("a chunk longer than it says", says(CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", then="hang"), "BadAnswer"),
    Behaviour("chunks without the last", says(CHUNKED + b"2\r\nok\r\n"), "BadAnswer"),
    Behaviour(
        "zeros before a chunk's size, without end", floods(b"0" * 4096, first=CHUNKED), "RequestTimeout", costly=True
    ),
    Behaviour(
        "a chunk extension without end", floods(b"a" * 65536, first=CHUNKED + b"1;"), "RequestTimeout", costly=True
    ),
    Behaviour("trailers without end", floods(b"X: 1\r\n" * 500, first=CHUNKED + b"0\r\n"), "BadAnswer", costly=True),
    Behaviour("a trailer line without end", floods(b"a" * 4096, first=CHUNKED + b"0\r\nX: "), "BadAnswer", costly=True),
    Behaviour(
        "chunks of one byte, without end",
        floods(b"1\r\nx\r\n" * 9999, first=CHUNKED),
        "response_too_large|RequestTimeout",
        costly=True,
    ),
    Behaviour(
        "chunks of two bytes, without end",
        floods(b"2\r\nxy\r\n" * 9999, first=CHUNKED),
        "response_too_large|RequestTimeout",
        costly=True,
    ),
    Behaviour("a body without end", floods(b"x" * 65536, first=OK + b"\r\n"), "response_too_large", costly=True),
    Behaviour(
        "chunks without end",
        floods(b"10000\r\n" + b"x" * 65536 + b"\r\n", first=CHUNKED),
        "response_too_large",
        costly=True,
    ),
    Behaviour("no length, up to the close", says(OK + b"\r\nok"), "200"),
    Behaviour("no length, up to a reset", says(OK + b"\r\nhalf", then="reset"), "BadAnswer"),
    Behaviour("TLS, long and packed, up to the close", says(PACKED + LONG), "200", tls="good", secure=True),
    Behaviour(
        "TLS, long and packed, cut behind it", says(PACKED + LONG, then="cut"), "BadAnswer", tls="good", secure=True
    ),
    Behaviour(
        "TLS, long and packed, with a length", says(packed(b"gzip", LONG)), "200", tls="good", secure=True, costly=True
    ),
    Behaviour("no length, then silence", says(OK + b"\r\nhalf", then="hang"), "RequestTimeout"),
    Behaviour("unknown transfer encoding", says(OK + b"Transfer-Encoding: gzip\r\n\r\nok"), "BadAnswer|200"),
    Behaviour("gzip cut short", says(packed(b"gzip", gzip.compress(b"x" * 999)[:-9])), "BadAnswer"),
    Behaviour("gzip that is none", says(packed(b"gzip", b"nope")), "BadAnswer"),
    Behaviour("gzip with a wrong checksum", says(packed(b"gzip", gzip.compress(b"x")[:-8] + bytes(8))), "BadAnswer"),
    Behaviour("gzip with noise behind it", says(packed(b"gzip", gzip.compress(b"x") + b"noise")), "BadAnswer"),
    Behaviour("gzip of nothing", says(packed(b"gzip", b"")), "200"),
    Behaviour("a gzip bomb", says(packed(b"gzip", GZIP_BOMB)), "response_too_large", costly=True),
    Behaviour("a deflate bomb", says(packed(b"deflate", DEFLATE_BOMB)), "response_too_large", costly=True),
    Behaviour("a raw deflate bomb", says(packed(b"deflate", RAW_BOMB)), "response_too_large", costly=True),
    Behaviour(
        "a bomb of many small members",
        says(packed(b"gzip", gzip.compress(bytes(9999)) * 900)),
        "response_too_large",
        costly=True,
    ),
    Behaviour("50,000 empty members", says(packed(b"gzip", EMPTY_MEMBER * 50_000)), "BadAnswer", costly=True),
    Behaviour("a gzip bomb in a gzip", says(packed(b"gzip, gzip", gzip.compress(GZIP_BOMB))), "200", costly=True),
    Behaviour("brotli, which nobody offered", says(packed(b"br", b"\x5b\xff\xff\x7f" * 99)), "200"),
    Behaviour("zstd, which nobody offered", says(packed(b"zstd", b"\x28\xb5\x2f\xfd" * 99)), "200"),
    Behaviour(
        "a gzip header without end",
        floods(b"n" * 65536, first=PACKED + NAMED_MEMBER),
        "response_too_large",
        costly=True,
    ),
    Behaviour("empty deflate blocks", says(packed(b"deflate", EMPTY_BLOCK * 200_000)), "BadAnswer", costly=True),
    Behaviour("deflate blocks full of tables", says(packed(b"deflate", tables())), "response_too_large", costly=True),
    Behaviour("answers without end", floods(length(b"2") * 5000), "200", costly=True),
    Behaviour("answers in chunks, without end", floods((CHUNKED + b"2\r\nok\r\n0\r\n\r\n") * 5000), "200", costly=True),
    Behaviour("204 with a body", says(b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\nhello"), "204"),
    Behaviour("304 with a body", says(b"HTTP/1.1 304 X\r\nContent-Length: 99999999\r\n\r\nhello"), "304"),
    Behaviour("HEAD with a body", says(length(b"99999999")), "200", method="HEAD"),
    Behaviour("HEAD with chunks", says(CHUNKED + b"2\r\nok\r\n0\r\n\r\n"), "200", method="HEAD"),
)
