"""Owns the form of what is said of an error, and the advice that several errors share; api/problems has the table."""

from __future__ import annotations

import msgspec


class Advice(msgspec.Struct, frozen=True):
    """What to do next, in Japanese and in English."""

    ja: str
    en: str


class Entry(msgspec.Struct, frozen=True):
    """One row of the table: what is said of every error of one class."""

    status: int
    title: Advice
    advice: Advice
    vendor: Advice


CALL_VENDOR = Advice(
    "システムの送信内容に問題があります。この画面の表示を控えて、システムの保守窓口にご連絡ください。",
    "The system sent something that cannot be read. Note what is shown here and call your system's support.",
)
CHECK_INPUT = Advice(
    "表示された項目を、資格確認書などと照らし合わせて入力し直してください。",
    "Compare the field shown with the patient's document and enter it again.",
)
WAIT = Advice(
    "ただいま混み合っています。少し待ってから、もう一度お試しください。",
    "The service is busy. Wait a moment and try again.",
)
AUDIT_INPUT = Advice(
    "監査記録・受領証・検証鍵の内容が正しくありません。受け取ったままのファイルかどうかを確かめてください。",
    "The audit record, receipt or verifier key is not right. Check that the file is as it was received.",
)
VENDOR_AUDIT = Advice(
    "形式は docs/AUDIT.md にあります。field が位置を示します。",
    "docs/AUDIT.md has the formats. `field` is the place.",
)
OPERATOR = Advice(
    "資格確認のサービスに障害が起きています。時間をおいて、もう一度お試しください。お急ぎの場合は、"
    "資格確認書などの券面で確認してください。",
    "The service is disturbed. Try again later; in urgent cases go by the patient's document.",
)
INSURER_FILE = Advice(
    "登録は行われていません。表示された内容を直して、もう一度送ってください。",
    "Nothing was registered. Correct what is shown and send it again.",
)
VENDOR_OPERATOR = Advice(
    "呼び出し側の誤りではありません。間隔をあけて再試行し、続く場合は code と X-Request-ID を添えて、"
    "運営者へ連絡してください。",
    "Not the caller's fault. Retry with growing pauses; if it stays, tell the operator the code and the X-Request-ID.",
)
VENDOR_SCHEMA = Advice(
    "/openapi.json の定義と照らし合わせてください。知らないメンバーは受け付けません。field が位置を示します。",
    "Compare with /openapi.json. Unknown members are refused. `field` is the place.",
)
VENDOR_FIELD = Advice(
    "field の値の形を /openapi.json で確認し、送信前に検査してください。値は応答にもログにも残りません。",
    "Look up the form of `field` in /openapi.json and check before sending. The value is in no answer and no log.",
)
VENDOR_RETRY = Advice(
    "Retry-After の時間だけ待ってから、同じ要求をそのまま送り直してください。",
    "Wait for the time in Retry-After, then send the same request again.",
)
VENDOR_FEED = Advice(
    "errors の row・column・code を見て直してください。ファイルは全件登録か、何も登録しないかのどちらかです。",
    "Go by row, column and code in `errors`. A file is applied whole or not at all.",
)


def entry(status: int, ja: str, en: str, advice: Advice, vendor: Advice) -> Entry:
    return Entry(status, Advice(ja, en), advice, vendor)


def challenge(code: str, field: str | None) -> str:
    """The value of WWW-Authenticate; an error is named where a token was shown (RFC 6750 3)."""
    if code == "caller.scope":
        return 'Bearer realm="shikaku", error="insufficient_scope"'
    return 'Bearer realm="shikaku"' + (', error="invalid_token"' if field else "")
