"""Owns the single table from error to HTTP problem: status, titles, and advice for the front desk and for vendors.

Errors leave the server as RFC 9457 `application/problem+json`. `type` is `/problems/<code>`, a page on our own origin
(rendered here too); `code` is stable. Nothing that a caller sent is ever part of a problem: texts are fixed, and the
members that vary (`detail`, `field`, `errors`) come from errors whose contract is to carry no value.
"""

from __future__ import annotations

from html import escape
from typing import ClassVar, Final

import msgspec

from api.wording import (
    AUDIT_INPUT,
    CALL_VENDOR,
    CHECK_INPUT,
    INSURER_FILE,
    OPERATOR,
    VENDOR_AUDIT,
    VENDOR_FEED,
    VENDOR_FIELD,
    VENDOR_OPERATOR,
    VENDOR_RETRY,
    VENDOR_SCHEMA,
    WAIT,
    challenge,
    entry,
)
from api.wording import Advice as Advice
from api.wording import Entry as Entry
from engine import errors
from engine.errors import InputError, PushbackError, ShikakuError
from engine.ingest.rows import Report, RowError
from engine.limits import BODY_BYTES_PER_SECOND_MIN

MEDIA_TYPE: Final = "application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """RFC 9457 problem details; `code` is stable, `field` is the path of the offending member."""

    type: str
    title: str
    title_ja: str
    status: int
    detail: str
    code: str
    field: str | None = None
    advice: Advice
    """For the front desk."""
    vendor_advice: Advice
    """For the vendor of the calling system."""
    retry_after_ms: int | None = None
    rows: int | None = None
    """Of a feed or call: how many rows or operations were read."""
    error_count: int | None = None
    errors: list[RowError] | None = None
    """The first of them: row, column, code and kind of value of each, never the value."""


# --- errors of the HTTP exchange itself -----------------------------------------------------------------------------


class HttpError(InputError):
    """The HTTP request does not fit, whatever its content says. `headers` go out with the problem."""

    def __init__(self, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail, field=field)
        self.headers = headers or {}


class ProtocolError(HttpError):
    """The request is not readable as HTTP/1.1."""

    code: ClassVar[str] = "http.malformed"


class NotFoundError(HttpError):
    """There is nothing at this path."""

    code: ClassVar[str] = "http.not_found"


class MethodError(HttpError):
    """The path exists, but not for this method."""

    code: ClassVar[str] = "http.method"


class NotAcceptableError(HttpError):
    """None of the media types that the caller accepts can be produced."""

    code: ClassVar[str] = "http.not_acceptable"


class ReadTimeoutError(HttpError):
    """The body did not arrive in time."""

    code: ClassVar[str] = "http.timeout"


class SlowBodyError(HttpError):
    """The body arrives without long pauses, but so slowly that others would be kept waiting for it."""

    code: ClassVar[str] = "http.slow"


class LengthRequiredError(HttpError):
    """The request has neither Content-Length nor a chunked body."""

    code: ClassVar[str] = "http.length_required"


class MediaTypeError(HttpError):
    """The body's media type, charset or coding is not the one asked for."""

    code: ClassVar[str] = "http.media_type"


class ExpectationError(HttpError):
    """The Expect header asks for something unknown."""

    code: ClassVar[str] = "http.expectation"


class ParameterError(HttpError):
    """A query parameter or a part of the path is unknown, repeated or out of range."""

    code: ClassVar[str] = "http.parameter"


class HostError(HttpError):
    """The request is for another host than this one."""

    code: ClassVar[str] = "http.host"


class UnexpectedError(ShikakuError):
    """Something that should not happen did; the only problem that stands for exceptions which are not ours."""

    code: ClassVar[str] = "internal"


# --- the table ------------------------------------------------------------------------------------------------------

_KIB_MIN = BODY_BYTES_PER_SECOND_MIN // 1024


TABLE: Final[dict[type[ShikakuError], Entry]] = {
    # the content of a request
    errors.MalformedError: entry(
        400,
        "内容を読み取れません",
        "The body cannot be read",
        CALL_VENDOR,
        Advice(
            "本文が正しい JSON（UTF-8）か確認してください。",
            "Check that the body is well-formed JSON, encoded in UTF-8.",
        ),
    ),
    errors.WrongTypeError: entry(
        400,
        "項目が足りないか、型または名前が違います",
        "A member is missing, unknown or of the wrong type",
        CALL_VENDOR,
        VENDOR_SCHEMA,
    ),
    errors.FormatError: entry(400, "項目の形式が違います", "A value has the wrong form", CHECK_INPUT, VENDOR_FIELD),
    errors.TooLongError: entry(400, "項目の値が長すぎます", "A value is too long", CHECK_INPUT, VENDOR_FIELD),
    errors.CheckDigitError: entry(
        400,
        "検証番号が合いません",
        "A check digit does not fit",
        Advice(
            "番号の読み間違い・打ち間違いの可能性があります。表示された項目を、もう一度入力してください。",
            "A digit was probably misread or mistyped. Enter the field shown again.",
        ),
        VENDOR_FIELD,
    ),
    errors.DateError: entry(
        400,
        "日付が正しくありません",
        "A date does not exist or is out of range",
        Advice(
            "暦にない日付か、扱える範囲の外の日付です。和暦から西暦への換算も確かめて、入力し直してください。",
            "The date is not in the calendar or out of range. Check how the Japanese era was converted, and enter it"
            " again.",
        ),
        Advice(
            "日付は YYYY-MM-DD です。確認日は 1920-01-02 から 2099-06-03 までです。",
            "Dates are YYYY-MM-DD; as_of may lie between 1920-01-02 and 2099-06-03.",
        ),
    ),
    errors.MyNumberError: entry(
        400,
        "マイナンバー（個人番号）は受け付けません",
        "A My Number (個人番号) is not accepted",
        Advice(
            "マイナンバー（12桁の個人番号）と思われる番号が入力されています。マイナンバーは資格確認に使えません。"
            "記号・番号、またはマイナンバーカードの読み取りで確認してください。入力された番号は保存していません。",
            "The value looks like a My Number (12 digits), which must not be used for this. Use the symbol and"
            " number, or read the card with a card reader. The value was not kept.",
        ),
        Advice(
            "12桁で検証番号が合う値は個人番号とみなして拒否します。番号が12桁の保険者は、登録時の設定で除外できます。",
            "A 12-digit value with a valid check digit counts as a My Number. An insurer whose numbers really have"
            " 12 digits is exempted by its registration.",
        ),
    ),
    errors.InquiryShapeError: entry(
        400,
        "照会の方法が一つに決まりません",
        "An inquiry needs exactly one of card and certificate",
        CALL_VENDOR,
        Advice(
            "card（記号・番号）か certificate（証明書）の、どちらか一方だけを送ってください。",
            "Send either `card` or `certificate`, not both and not neither.",
        ),
    ),
    errors.BodyTooLargeError: entry(
        413,
        "送信内容が大きすぎます",
        "The body, a line or a batch is over its limit",
        CALL_VENDOR,
        Advice(
            "上限は detail にあります。大量の照会は NDJSON（application/x-ndjson）で送ってください。",
            "The bound is in `detail`. Send large batches as NDJSON (application/x-ndjson).",
        ),
    ),
    # feeds
    errors.FeedHeaderError: entry(
        422,
        "見出し行が正しくありません",
        "The header row is wrong",
        INSURER_FILE,
        Advice(
            "1行目に列名が要ります。列名の一覧は /docs にあります。",
            "The first line names the columns; /docs lists them.",
        ),
    ),
    errors.FeedEncodingError: entry(
        422,
        "文字コードが指定と違います",
        "The file is not in the declared encoding",
        INSURER_FILE,
        Advice(
            "encoding=utf-8 または encoding=cp932 を、ファイルに合わせて指定してください。",
            "Give encoding=utf-8 or encoding=cp932, whichever the file is in.",
        ),
    ),
    errors.FeedTruncatedError: entry(
        422,
        "ファイルが途中で終わっています",
        "The file ends in the middle of a row",
        INSURER_FILE,
        Advice("転送が最後まで終わったか確認してください。", "Check that the transfer was complete."),
    ),
    errors.FeedRowsError: entry(
        422, "登録できない行があります", "Rows of the feed are wrong; nothing was applied", INSURER_FILE, VENDOR_FEED
    ),
    errors.FeedNumberError: entry(
        409,
        "連番が合いません",
        "The feed number was used before by other content, or goes backwards",
        INSURER_FILE,
        Advice(
            "feed_number は保険者ごとに増えていく番号です。最後の番号は GET /v1/insurers/{number} にあります。",
            "feed_number grows with every feed of an insurer; GET /v1/insurers/{number} tells the last one.",
        ),
    ),
    errors.InsurerUnknownError: entry(
        404,
        "この保険者は登録されていません",
        "The insurer is not registered here",
        Advice(
            "保険者番号を確かめてください。正しい場合は、運営者に保険者の登録を依頼してください。",
            "Check the insurer number. If it is right, ask the operator to register the insurer.",
        ),
        Advice(
            "先に PUT /v1/insurers/{number} で保険者を登録してください。",
            "Register the insurer first with PUT /v1/insurers/{number}.",
        ),
    ),
    errors.InsurerMismatchError: entry(
        403,
        "ほかの保険者の資格は登録できません",
        "An insurer may write only for itself",
        INSURER_FILE,
        Advice(
            "URL の保険者番号と、内容の insurer_number をそろえてください。",
            "The insurer number in the URL and in the content must be the same.",
        ),
    ),
    # callers
    errors.CallerInputError: entry(
        400, "登録内容の形式が違います", "A caller's entry has the wrong form", OPERATOR, VENDOR_OPERATOR
    ),
    errors.CallerExistsError: entry(
        409, "すでに登録されています", "It is in the register of callers already", OPERATOR, VENDOR_OPERATOR
    ),
    errors.CallerMissingError: entry(
        404, "登録されていません", "It is not in the register of callers", OPERATOR, VENDOR_OPERATOR
    ),
    errors.CallerUnknownError: entry(
        401,
        "呼び出し元を確認できません",
        "The request does not prove who asks",
        CALL_VENDOR,
        Advice(
            "アクセストークンかクライアント証明書が要ります。トークンの期限は5分です。"
            "/.well-known/smart-configuration のトークンエンドポイントで、新しく取得してください。",
            "An access token or a client certificate is needed. Tokens are good for five minutes: get a new one at the"
            " token endpoint named in /.well-known/smart-configuration.",
        ),
    ),
    errors.CallerScopeError: entry(
        403,
        "この操作は許可されていません",
        "The caller may not do this",
        CALL_VENDOR,
        Advice(
            "トークンの scope と、登録された権限を確認してください。",
            "Check the scope of the token, and what the caller is registered for.",
        ),
    ),
    errors.CallerMismatchError: entry(
        403,
        "ほかの機関の名前では照会できません",
        "An institution may ask in its own name only",
        CALL_VENDOR,
        Advice(
            "institution には、トークンまたは証明書の機関コードを入れてください。",
            "`institution` must be the code of the institution whose token or certificate is shown.",
        ),
    ),
    errors.CallerRateError: entry(
        429, "照会が多すぎます", "The caller asks more often than it may", WAIT, VENDOR_RETRY
    ),
    errors.CallerGuessingError: entry(
        429,
        "該当者のない照会が多すぎます",
        "Too many inquiries were about nobody",
        CHECK_INPUT,
        Advice(
            "Retry-After の時間だけ待ってください。入力や変換の誤りで該当なしが続いていないか、確認してください。",
            "Wait for the time in Retry-After, and find out why so many inquiries name nobody: a fault in entry or"
            " conversion is the usual cause.",
        ),
    ),
    # later
    errors.WriterBusyError: entry(503, "登録が混み合っています", "The writer is busy", WAIT, VENDOR_RETRY),
    errors.AuditUnavailableError: entry(503, "記録できません", "Nothing can be recorded", OPERATOR, VENDOR_RETRY),
    errors.StartingError: entry(503, "起動中です", "The process is starting", WAIT, VENDOR_RETRY),
    # the operator
    # the audit log
    errors.AuditEntryError: entry(
        422,
        "監査記録の項目が正しくありません",
        "An entry of the audit log has not its form",
        AUDIT_INPUT,
        VENDOR_AUDIT,
    ),
    errors.AuditNoteError: entry(
        400, "署名付き文書を読み取れません", "A signed note or a key has not its form", AUDIT_INPUT, VENDOR_AUDIT
    ),
    errors.AuditReceiptError: entry(
        422, "受領証が正しくありません", "A receipt does not prove what it should", AUDIT_INPUT, VENDOR_AUDIT
    ),
    errors.ReceiptUnknownError: entry(404, "その受領証はありません", "No such receipt", AUDIT_INPUT, VENDOR_AUDIT),
    errors.AuditProofError: entry(
        422, "証明が合いません", "A Merkle proof does not lead to its root", AUDIT_INPUT, VENDOR_AUDIT
    ),
    errors.AuditRangeError: entry(
        404, "監査記録の範囲の外です", "An index or a size lies outside the audit log", AUDIT_INPUT, VENDOR_AUDIT
    ),
    errors.AuditSignatureError: entry(
        403, "必要な署名がないか、合いません", "A signature is missing or does not fit", AUDIT_INPUT, VENDOR_AUDIT
    ),
    errors.AuditMissingError: entry(503, "監査記録がありません", "No audit log here", OPERATOR, VENDOR_OPERATOR),
    errors.AuditLockedError: entry(
        503, "監査記録が使用中です", "Another process writes this audit log", OPERATOR, VENDOR_OPERATOR
    ),
    errors.AuditKeyError: entry(
        500, "署名鍵がないか、違います", "A signing key is missing or another one", OPERATOR, VENDOR_OPERATOR
    ),
    errors.AuditDamagedError: entry(
        500, "監査記録が壊れています", "An audit log is not what was signed", OPERATOR, VENDOR_OPERATOR
    ),
    errors.StoreFullError: entry(
        507, "保存領域が足りません", "The disk or the store is full; nothing was applied", OPERATOR, VENDOR_OPERATOR
    ),
    errors.StoreVersionError: entry(
        500, "データの版が違います", "The store was written by another version", OPERATOR, VENDOR_OPERATOR
    ),
    errors.StoreMissingError: entry(500, "データがありません", "There is no store", OPERATOR, VENDOR_OPERATOR),
    errors.StoreLockedError: entry(
        503, "データは別の処理が使用中です", "Another process is the writer of the store", OPERATOR, VENDOR_OPERATOR
    ),
    errors.StorePoisonedError: entry(
        503,
        "書き込みを復旧しています",
        "An earlier write failed; the writer is being recovered",
        WAIT,
        VENDOR_OPERATOR,
    ),
    errors.KeyMissingError: entry(500, "鍵がありません", "The master key is missing", OPERATOR, VENDOR_OPERATOR),
    errors.KeyMismatchError: entry(
        500, "鍵がデータと合いません", "The master key does not fit the store", OPERATOR, VENDOR_OPERATOR
    ),
    errors.IndexSpaceError: entry(
        507, "メモリが足りません", "There is not enough memory for the index", OPERATOR, VENDOR_OPERATOR
    ),
    errors.ConfigError: entry(500, "設定に誤りがあります", "A setting is wrong", OPERATOR, VENDOR_OPERATOR),
    errors.IndexCorruptError: entry(
        503, "索引が壊れています", "The index is damaged and is being rebuilt", OPERATOR, VENDOR_OPERATOR
    ),
    errors.RecordCorruptError: entry(
        503, "記録が壊れています", "A stored record cannot be read", OPERATOR, VENDOR_OPERATOR
    ),
    # HTTP
    ProtocolError: entry(
        400,
        "HTTP として読み取れません",
        "The request is not readable as HTTP/1.1",
        CALL_VENDOR,
        Advice(
            "要求行・ヘッダー・本文の長さを確認してください。接続は閉じられました。",
            "Check the request line, the headers and the length of the body. The connection was closed.",
        ),
    ),
    NotFoundError: entry(
        404,
        "この場所には何もありません",
        "There is nothing at this path",
        CALL_VENDOR,
        Advice("使える場所の一覧は /openapi.json にあります。", "All paths are listed in /openapi.json."),
    ),
    MethodError: entry(
        405,
        "このメソッドは使えません",
        "The method is not allowed here",
        CALL_VENDOR,
        Advice("使えるメソッドは Allow ヘッダーにあります。", "The Allow header lists the methods."),
    ),
    NotAcceptableError: entry(
        406,
        "求められた形式では応答できません",
        "No acceptable media type can be produced",
        CALL_VENDOR,
        Advice(
            "Accept に application/json（NDJSON では application/x-ndjson）を含めてください。",
            "Include application/json (for NDJSON: application/x-ndjson) in Accept.",
        ),
    ),
    ReadTimeoutError: entry(
        408,
        "本文が届きませんでした",
        "The body did not arrive in time",
        WAIT,
        Advice(
            "本文は続けて送ってください。Content-Length が実際より長いと、この応答になります。",
            "Send the body without pauses. A Content-Length larger than the body leads here, too.",
        ),
    ),
    SlowBodyError: entry(
        408,
        "本文の届くのが遅すぎます",
        "The body arrives too slowly",
        WAIT,
        Advice(
            f"毎秒 {_KIB_MIN} KiB より速く送ってください。"
            "ファイルは、送る側で作り終えてから送るか、小さく分けてください。",
            f"Send faster than {_KIB_MIN} KiB a second. Finish a file before sending it, or send it in smaller ones.",
        ),
    ),
    LengthRequiredError: entry(
        411,
        "本文の長さがわかりません",
        "The length of the body is missing",
        CALL_VENDOR,
        Advice(
            "Content-Length を付けるか、chunked で送ってください。",
            "Give a Content-Length, or send the body chunked.",
        ),
    ),
    MediaTypeError: entry(
        415,
        "本文の形式が違います",
        "The media type of the body is not supported",
        CALL_VENDOR,
        Advice(
            "Content-Type と文字コード（UTF-8）を確認し、本文は圧縮せずに送ってください。",
            "Check Content-Type and its charset (UTF-8), and send the body uncompressed.",
        ),
    ),
    ExpectationError: entry(
        417,
        "Expect ヘッダーに対応できません",
        "The Expect header cannot be met",
        CALL_VENDOR,
        Advice("使えるのは 100-continue だけです。", "Only 100-continue is known."),
    ),
    ParameterError: entry(
        400,
        "URL のパラメーターが正しくありません",
        "A parameter of the URL is unknown, repeated or out of range",
        CALL_VENDOR,
        VENDOR_SCHEMA,
    ),
    HostError: entry(
        421,
        "あて先のホストが違います",
        "The request is for another host",
        CALL_VENDOR,
        Advice(
            "同じ端末から、127.0.0.1・[::1]・localhost のいずれかをあて先にして送ってください。",
            "Send it from the same machine, to 127.0.0.1, [::1] or localhost.",
        ),
    ),
    UnexpectedError: entry(
        500, "処理中に問題が起きました", "The request could not be handled", OPERATOR, VENDOR_OPERATOR
    ),
}

_UNEXPECTED = UnexpectedError("something unexpected happened while the request was handled")


def lookup(error: BaseException) -> tuple[ShikakuError, Entry]:
    """The row for an error; a subclass uses its parent's row, and what is not ours becomes `internal`."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            assert isinstance(error, ShikakuError)
            return error, TABLE[kind]
    return _UNEXPECTED, TABLE[UnexpectedError]


def problem(error: BaseException) -> Problem:
    """The problem details that an error becomes."""
    known, entry = lookup(error)
    found = Problem(
        type=f"/problems/{known.code}",
        title=entry.title.en,
        title_ja=entry.title.ja,
        status=entry.status,
        detail=known.detail,
        code=known.code,
        field=known.field,
        advice=entry.advice,
        vendor_advice=entry.vendor,
        retry_after_ms=known.retry_after_ms if isinstance(known, PushbackError) else None,
    )
    if isinstance(known, errors.FeedRowsError):
        report = known.report
        assert isinstance(report, Report)
        found.rows, found.error_count, found.errors = report.rows, report.error_count, report.errors
    return found


def headers(error: BaseException, found: Problem) -> dict[str, str]:
    """HTTP headers that go with a problem: Retry-After in whole seconds, rounded up, and what the error asks for."""
    extra = dict(error.headers) if isinstance(error, HttpError) else {}
    if found.status in (429, 503):
        extra["Retry-After"] = str(-(-(found.retry_after_ms or 1000) // 1000))
    if isinstance(error, errors.CallerUnknownError | errors.CallerScopeError):
        extra["WWW-Authenticate"] = challenge(found.code, found.field)
    return extra


def known_codes() -> dict[str, Entry]:
    """All rows by code."""
    return {kind.code: entry for kind, entry in TABLE.items()}


def page(code: str) -> str | None:
    """The HTML page behind `type`, in Japanese and English; None if there is no such code."""
    entry = known_codes().get(code)
    if entry is None:
        return None
    rows = "".join(
        f'<section lang="{language}"><h2>{escape(title)}</h2><h3>{desk}</h3><p>{escape(advice)}</p>'
        f"<h3>{maker}</h3><p>{escape(vendor)}</p></section>"
        for language, title, desk, advice, maker, vendor in (
            ("ja", entry.title.ja, "受付の方へ", entry.advice.ja, "システムの担当者へ", entry.vendor.ja),
            ("en", entry.title.en, "At the front desk", entry.advice.en, "For the system's vendor", entry.vendor.en),
        )
    )
    return (
        '<!doctype html><html lang="ja"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{escape(code)}</title><link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/static/docs.css">'
        f'<main class="problem"><p class="code"><code>{escape(code)}</code> · HTTP {entry.status}</p>{rows}'
        '<p><a href="/docs">/docs</a></p></main></html>'
    )
