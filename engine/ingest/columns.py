"""Owns the column table of feeds: name, meaning, form, code list, and the operations that require a column.

The documentation (docs/FORMATS.md), the OpenAPI schema of a delta and the readers of feeds all come from this one
table. Code lists are the public code tables of the eligibility system (OQSCD numbers).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from engine import limits
from engine.ingest.rows import Op

EVERY: Final = frozenset(Op)
PUTS: Final = frozenset({Op.NEW, Op.CHANGE})
LOSES: Final = frozenset({Op.LOSE})
NEVER: Final[frozenset[Op]] = frozenset()

LOSS_REASONS: Final = {"01": "deceased", "02": "public assistance", "03": "other insurance", "99": "other"}
CARD_CLASSES: Final = {
    "01": "general",
    "02": "retired",
    "03": "short-term",
    "04": "short-term, special",
    "05": "special medical expenses",
    "06": "specially retired",
    "07": "self-defence forces",
    "A1": "medical assistance",
}
LIMIT_CATEGORIES: Final = {"01": "limit", "02": "limit and standard copay", "03": "standard copay"}
LIMIT_BANDS: Final = {
    **{f"A0{n}": meaning for n, meaning in enumerate("アイウエオ", 1)},
    "A06": "オ(境)",
    "B01": "現役並みⅢ",
    "B02": "現役並みⅡ",
    "B03": "現役並みⅠ",
    "B04": "一般",
    "B05": "低所得Ⅱ",
    "B06": "低所得Ⅰ",
    "B07": "低所得Ⅰ(老福)",
    "B08": "低所得Ⅰ(境)",
    "B09": "後期 一般Ⅱ",
    "B10": "後期 一般Ⅰ",
}
DISEASE_CATEGORIES: Final = {"1": "artificial dialysis", "2": "haemophilia", "3": "HIV"}
SELF_PAY_YEN_MAX: Final = 9_999_999


class Form(enum.StrEnum):
    """How a cell is written."""

    CODE = "code"
    """One of a list."""
    FLAG = "flag"
    """0 or 1; in JSON also false or true."""
    DATE = "date"
    """YYYY-MM-DD or YYYYMMDD."""
    INSURER = "insurer number"
    """8 digits, or 6 for municipal insurance; the last is a check digit."""
    IDENTIFIER = "identifier"
    """記号 or 番号: half or full width, digits, letters, kana, kanji, hyphens."""
    BRANCH = "branch"
    """Two digits."""
    ISSUER = "certificate issuer"
    SERIAL = "certificate serial"
    LINK = "link code"
    """Visible ASCII characters."""
    POSTCODE = "postcode"
    """Seven digits, with or without a hyphen after the third; kept as NNN-NNNN."""
    RATIO = "ratio"
    """Three digits, 000 to 100: the per cent that the patient pays."""
    TEXT = "text"
    """Any characters but control characters and U+FFFD; not only blanks."""
    KANA = "kana"
    """Half or full width kana, letters, digits, simple punctuation; kept in full width."""
    DISEASES = "diseases"
    """`category:issued_on:valid_from:valid_to:self_pay`, several separated by semicolons; valid_to may be empty."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a feed. `chars_max` bounds the value as kept; `required` are the operations that need it."""

    name: str
    english: str
    japanese: str
    form: Form
    required: frozenset[Op] = NEVER
    codes: dict[str, str] | None = None
    chars_max: int | None = None


_IDENTIFIER, _NAME = limits.IDENTIFIER_CHARS_MAX, limits.NAME_CHARS_MAX
SEXES: Final = {"1": "male", "2": "female", "3": "unset"}
RELATIONS: Final = {"1": "self", "2": "family"}
STATES: Final = {"confirmed": "in force as dated", "pending": "announced, not confirmed"}

COLUMNS: Final = (
    Column("op", "what the row asks for", "処理区分", Form.CODE, EVERY, {
        "new": "register a qualification",
        "change": "replace what is registered for it",
        "lose": "it ended",
        "cancel": "it never was",
    }),
    Column("insurer_number", "insurer", "保険者番号", Form.INSURER, EVERY),
    Column("symbol", "symbol on the card; none with insurers 39...", "記号", Form.IDENTIFIER, chars_max=_IDENTIFIER),
    Column("number", "insured number", "番号", Form.IDENTIFIER, EVERY, chars_max=_IDENTIFIER),
    Column("branch", "branch; none with insurers 39...", "枝番", Form.BRANCH),
    Column("birth_date", "date of birth", "生年月日", Form.DATE, EVERY),
    Column("link_code", "joins one person's registrations", "連携符号", Form.LINK,
           chars_max=limits.LINK_CODE_CHARS_MAX),
    Column("name", "name", "氏名", Form.TEXT, PUTS, chars_max=_NAME),
    Column("name_kana", "name in kana", "氏名カナ", Form.KANA, PUTS, chars_max=_NAME),
    Column("name_other", "other name (common name)", "氏名（その他）", Form.TEXT, chars_max=_NAME),
    Column("name_other_kana", "other name in kana", "氏名（その他）カナ", Form.KANA, chars_max=_NAME),
    Column("sex", "sex (OQSCD007)", "性別", Form.CODE, PUTS, SEXES),
    Column("postcode", "postcode", "郵便番号", Form.POSTCODE),
    Column("address", "address; a line break becomes a blank", "住所", Form.TEXT, chars_max=limits.ADDRESS_CHARS_MAX),
    Column("relation", "insured or family (OQSCD009)", "本人・家族の別", Form.CODE, PUTS, RELATIONS),
    Column("insured_name", "name of the insured", "被保険者氏名", Form.TEXT, chars_max=_NAME),
    Column("gained_on", "first day of cover; lose, cancel: which spell is meant", "資格取得年月日", Form.DATE, PUTS),
    Column("lost_on", "first day without cover, not before gained_on", "資格喪失年月日", Form.DATE, LOSES),
    Column("loss_reason", "reason of loss (OQSCD008), with lost_on", "資格喪失事由", Form.CODE, LOSES, LOSS_REASONS),
    Column("state", "default confirmed", "登録状態", Form.CODE, NEVER, STATES),
    Column("card_class", "card class (OQSCD010), default 01", "被保険者証区分", Form.CODE, NEVER, CARD_CLASSES),
    Column("card_issued_on", "card issued on", "交付年月日", Form.DATE),
    Column("card_valid_from", "card valid from", "有効開始年月日", Form.DATE),
    Column("card_valid_to", "card valid to, not before card_valid_from", "有効終了年月日", Form.DATE),
    Column("copay_ratio", "patient's share", "一部負担金割合", Form.RATIO),
    Column("preschool", "preschool child (OQSCD015)", "未就学区分", Form.FLAG),
    Column("certificate_issuer", "issuer of the card's certificate", "証明書発行者", Form.ISSUER,
           chars_max=limits.CERTIFICATE_ISSUER_CHARS_MAX),
    Column("certificate_serial", "its serial number", "証明書シリアル番号", Form.SERIAL,
           chars_max=limits.CERTIFICATE_SERIAL_CHARS_MAX),
    Column("certificate_expires_on", "its last day", "証明書有効期限", Form.DATE),
    Column("certificate_revoked", "it is revoked", "証明書失効", Form.FLAG),
    Column("elderly_issued_on", "elderly certificate issued on", "高齢受給者証交付年月日", Form.DATE),
    Column("elderly_valid_from", "elderly certificate valid from", "高齢受給者証有効開始年月日", Form.DATE),
    Column("elderly_valid_to", "elderly certificate valid to", "高齢受給者証有効終了年月日", Form.DATE),
    Column("elderly_ratio", "elderly certificate's share", "高齢受給者証一部負担金割合", Form.RATIO),
    Column("limit_category", "limit certificate, OQSCD011", "限度額適用認定証区分", Form.CODE, NEVER, LIMIT_CATEGORIES),
    Column("limit_band", "its band (OQSCD012)", "限度額適用認定証適用区分", Form.CODE, NEVER, LIMIT_BANDS),
    Column("limit_issued_on", "limit certificate issued on", "限度額適用認定証交付年月日", Form.DATE),
    Column("limit_valid_from", "limit certificate valid from", "限度額適用認定証有効開始年月日", Form.DATE),
    Column("limit_valid_to", "limit certificate valid to", "限度額適用認定証有効終了年月日", Form.DATE),
    Column("limit_long_term_on", "long-term case since", "長期入院該当年月日", Form.DATE),
    Column("diseases", "specific diseases (OQSCD013)", "特定疾病", Form.DISEASES),
)  # fmt: skip

BY_NAME: Final = {column.name: column for column in COLUMNS}
NAMES: Final = tuple(BY_NAME)
HEADER_REQUIRED: Final = tuple(column.name for column in COLUMNS if column.required == EVERY)
"""Columns that every feed file must have."""


@dataclass(frozen=True, slots=True)
class Group:
    """Columns that belong together: if any is filled, all of `needed` must be."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]


GROUPS: Final = (
    Group(("certificate_issuer", "certificate_serial", "certificate_expires_on"), ("certificate_revoked",)),
    Group(("elderly_issued_on", "elderly_valid_from", "elderly_ratio"), ("elderly_valid_to",)),
    Group(
        ("limit_category", "limit_band", "limit_issued_on", "limit_valid_from"),
        ("limit_valid_to", "limit_long_term_on"),
    ),
    Group(("lost_on",), ("loss_reason",)),
)
PERIODS: Final = (
    ("card_valid_from", "card_valid_to"),
    ("elderly_valid_from", "elderly_valid_to"),
    ("limit_valid_from", "limit_valid_to"),
)
"""First and last day of what is valid for a time: the last must not come before the first."""

FAULTS: Final = {
    "input.required": "empty, but required for this operation",
    "input.format": "not of the column's form",
    "input.too_long": "longer than the column allows",
    "input.check_digit": "the check digit is wrong",
    "input.date": "not a date of the calendar",
    "input.my_number": "twelve digits that may be a My Number (個人番号): neither kept nor logged",
    "input.code": "not in the column's code list",
    "input.control": "has a control character or an unreadable one (U+FFFD)",
    "input.type": "a JSON value of the wrong type",
    "input.unknown": "a JSON member that is not a column",
    "input.unexpected": "filled, but an insurer 39... has no symbol and no branch",
    "input.group": "empty, but other columns of its group are filled",
    "input.period": "ends before it begins",
    "row.fields": "the row has more or fewer fields than the header",
    "row.quotes": "quotes or line ends in the row are not as RFC 4180 asks",
    "row.json": "the line is not one JSON object, or names a member twice",
    "feed.lost_before_gained": "lost_on is before gained_on",
    "insurer.mismatch": "the row is of another insurer than the feed",
    "insurer.unknown": "the insurer is not registered here",
}
"""Every code that a row error of the reader can carry, with its meaning."""


def table_markdown() -> str:
    """The column table of docs/FORMATS.md."""
    lines = ["| column | meaning | 項目 | form | required for |", "|---|---|---|---|---|"]
    for column in COLUMNS:
        needed = ", ".join(op.value for op in Op if op in column.required) if column.required != EVERY else "all"
        lines.append(f"| `{column.name}` | {column.english} | {column.japanese} | {form_text(column)} | {needed} |")
    return "\n".join(lines) + "\n"


def faults_markdown() -> str:
    """The table of row error codes of docs/FORMATS.md."""
    return "\n".join(["| code | meaning |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in FAULTS.items())]) + "\n"


def form_text(column: Column) -> str:
    """The form of a column's cells in one line."""
    if column.codes is not None:
        return ", ".join(f"`{code}` {meaning}" for code, meaning in column.codes.items())
    bound = f", up to {column.chars_max} characters" if column.chars_max else ""
    return column.form.value + bound


def json_schema() -> dict[str, Any]:
    """JSON Schema of one operation: a delta's object, or a line of an NDJSON feed."""
    properties = {column.name: _property(column) for column in COLUMNS}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(HEADER_REQUIRED),
        "properties": properties,
        "allOf": [
            {
                "if": {"properties": {"op": {"const": op.value}}},
                "then": {"required": [column.name for column in COLUMNS if op in column.required]},
            }
            for op in Op
        ],
    }


def _property(column: Column) -> dict[str, Any]:
    described: dict[str, Any] = {"description": f"{column.english} / {column.japanese} ({column.form.value})"}
    if column.form is Form.FLAG:
        return described | {"enum": [False, True, 0, 1, "0", "1", None]}
    if column.name in ("sex", "relation"):
        assert column.codes is not None
        return described | {"enum": [*map(int, column.codes), *column.codes, None]}
    if column.form is Form.DISEASES:
        return described | {"type": ["string", "array", "null"], "items": _disease_schema()}
    described["type"] = "string" if column.required == EVERY else ["string", "null"]
    if column.codes is not None:
        described["enum"] = [*column.codes] if column.required == EVERY else [*column.codes, None]
    if column.chars_max and column.form is not Form.KANA:
        described["maxLength"] = column.chars_max
    return described


def _disease_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["category", "issued_on", "valid_from", "self_pay"],
        "properties": {
            "category": {"enum": list(DISEASE_CATEGORIES)},
            "issued_on": {"type": "string"},
            "valid_from": {"type": "string"},
            "valid_to": {"type": ["string", "null"]},
            "self_pay": {"type": "integer", "minimum": 0, "maximum": SELF_PAY_YEN_MAX},
        },
    }
