"""Owns every bound of the engine in one place, with the reason beside each."""

from typing import Final

IDENTIFIER_CHARS_MAX: Final = 20
"""記号 and 番号 carry up to 20 characters on the wire."""
NAME_CHARS_MAX: Final = 100
ADDRESS_CHARS_MAX: Final = 200
INSURER_NAME_CHARS_MAX: Final = 100
LINK_CODE_CHARS_MAX: Final = 40
CERTIFICATE_ISSUER_CHARS_MAX: Final = 200
CERTIFICATE_SERIAL_CHARS_MAX: Final = 64
"""X.509 serial numbers have at most 20 octets (RFC 5280); written in hex, with room for separators."""
PURPOSE_CHARS_MAX: Final = 32
INQUIRY_ID_CHARS_MAX: Final = 64

QUALIFICATIONS_PER_PERSON_MAX: Final = 32
CERTIFICATES_PER_PERSON_MAX: Final = 32
DISEASES_PER_QUALIFICATION_MAX: Final = 8
PEOPLE_PER_KEY_MAX: Final = 32
"""How many index entries one key may have; more is refused at registration.

Half of what the table can hold (probe.MATCHES_MAX): old and new entries stand side by side while a change is published.
"""
PERSON_NUMBER_MAX: Final = 2**32 - 2
"""Person numbers are 32 bits wide in an index slot (docs/design/0001); 0 is never given out."""

CHECK_BODY_BYTES_MAX: Final = 16 * 1024
BATCH_BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""A JSON array batch; larger batches come as NDJSON, which has no size limit but a line limit."""
BATCH_ITEMS_MAX: Final = 10_000
BATCH_LINES_MAX: Final = 1_000_000
BATCH_LINE_BYTES_MAX: Final = 16 * 1024
BATCH_SLICE_NS: Final = 500_000
"""A batch yields to the event loop after this much work: half of the 1 ms promise."""

FEED_ROWS_PER_CHUNK: Final = 10_000
"""Rows parsed, staged and committed together: what bounds the memory of an import."""
FEED_BYTES_MAX: Final = 64 * 1024**3
"""An uploaded file, and what one may take of the disk: 500 bytes for each of 125 million people fit."""
FEED_LINE_BYTES_MAX: Final = 32 * 1024
"""A row with every column at its longest has 12 KiB; what is longer is no row, and would only keep others waiting."""
FEED_ERRORS_MAX: Final = 1_000
"""Errors listed in a report; the rest are counted."""
BODY_BYTES_PER_SECOND_MIN: Final = 256 * 1024
"""A body that makes us wait must arrive this fast, after some seconds of grace: an upload keeps the place for imports.

A line of 2 Mbit/s is as fast; the longest file may take three days.
"""
DELTA_OPERATIONS_MAX: Final = 1_000
DELTA_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
DELTA_QUEUE_MAX: Final = 10_000
"""Operations waiting for the writer; beyond it the registry pushes back."""

AUDIT_LOGS_MAX: Final = 256
"""Audit logs of one data folder: one for each check worker, and one more while a worker is replaced."""
