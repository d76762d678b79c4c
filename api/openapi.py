"""Owns the OpenAPI 3.1 document of each port, generated from the Structs that decode and encode.

What a Struct cannot say (paths, parameters, examples) stands here, beside nothing else.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, Final, Literal

import msgspec

from api import examples, problems
from api.handlers import pages, tokens
from api.wire import native, registration
from engine import limits
from engine.callers import Scope
from engine.ingest import columns
from engine.ingest.rows import Op
from engine.records import Verdict

Port = Literal["check", "registry"]
Json = dict[str, Any]

_CHECK_TYPES: Final = (
    native.CheckRequest,
    native.BatchRequest,
    native.CheckAnswer,
    native.ItemError,
    native.BatchAnswer,
    registration.InsurerView,
    registration.InsurerList,
    tokens.TokenRequest,
    tokens.TokenAnswer,
    tokens.OAuthError,
    tokens.SmartConfiguration,
    problems.Problem,
)
_REGISTRY_TYPES: Final = (
    registration.InsurerRequest,
    registration.InsurerView,
    registration.InsurerList,
    registration.DeltaRequest,
    registration.StateRequest,
    registration.Receipt,
    problems.Problem,
)


@cache
def document(port: str) -> bytes:
    """The document of one port (`check` or `registry`) as JSON. Takes 20 ms: a server makes both before it forks."""
    types, paths, title, about = {
        "check": (_CHECK_TYPES, _check_paths(), "Shikaku 照会ポート · Shikaku: check port", _CHECK_ABOUT),
        "registry": (
            _REGISTRY_TYPES,
            _registry_paths(),
            "Shikaku 登録ポート · Shikaku: registry port",
            _REGISTRY_ABOUT,
        ),
    }[port]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = copy.deepcopy(schemas)
    if port == "registry":
        schemas |= _registry_schemas()
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": pages.version(), "description": about},
            "servers": [{"url": "/"}],
            "tags": _TAGS[port],
            "paths": {**paths, **_common_paths()},
            "components": {"schemas": schemas, **({"securitySchemes": _SCHEMES} if port == "check" else {})},
        }
    )


_CHECK_ABOUT: Final = (
    "オンライン資格確認。患者がその日に有効な医療保険の資格を持つか、どの保険者の資格かを答えます。\n\n"
    "Online eligibility verification: is this person insured on this date, and by whom. My Number (個人番号) is"
    " refused wherever it turns up. Errors are RFC 9457 problems with stable codes, and advice for the front desk"
    " and the vendor."
)
_REGISTRY_ABOUT: Final = (
    "保険者が資格の取得・変更・喪失・取消を登録します。受領の応答は、永続化され、"
    "すべての照会に反映された後に返ります。\n\n"
    "Insurers register qualifications by file or by call. A write is acknowledged once it is durable and seen by"
    " every check. Identifiers are never part of a URL, but for the insurer's number."
)
_TAGS: Final = {
    "check": [
        {"name": "eligibility", "description": "資格確認 · Checks"},
        {"name": "insurers", "description": "保険者 · Insurers and how fresh their data is"},
        {"name": "callers", "description": "呼び出し元の認証 · Who may ask"},
        {"name": "service", "description": "稼働状況 · The service itself"},
    ],
    "registry": [
        {"name": "registration", "description": "資格の登録 · Registration of qualifications"},
        {"name": "insurers", "description": "保険者 · Insurers"},
        {"name": "service", "description": "稼働状況 · The service itself"},
    ],
}


# --- building blocks ------------------------------------------------------------------------------------------------


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(media_type: str, name: str, **examples: object) -> Json:
    named = {key: {"value": value} for key, value in examples.items()}
    return {media_type: {"schema": _ref(name), **({"examples": named} if named else {})}}


def _problems(*statuses: int) -> Json:
    """Responses for error statuses, with the codes that they can carry."""
    responses = {}
    for status in sorted({*statuses, 400, 405, 406, 500}):
        codes = [code for code, entry in problems.known_codes().items() if entry.status == status]
        responses[str(status)] = {
            "description": "Codes: " + ", ".join(f"`{code}`" for code in codes),
            "content": {problems.MEDIA_TYPE: {"schema": _ref("Problem")}},
        }
    return responses


def _operation(
    tag: str, name: str, summary: str, description: str, *, answer: Json, errors: tuple[int, ...] = (), **more: object
) -> Json:
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "responses": {"200": {"description": "OK", "content": answer}, **_problems(*errors)},
        **more,
    }


def _body(content: Json) -> Json:
    return {"required": True, "content": content}


_REQUEST_ID: Final = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Returned as it came: 1 to 64 visible ASCII characters",
    "schema": {"type": "string", "maxLength": 64},
}
_RECEIPT: Final = {
    "description": "Names what was recorded of this answer in the audit log",
    "schema": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
    "example": "0-12345",
}
_RECEIPT_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "受領証の名前 what the header Shikaku-Receipt, or the member receipt, of the answer said",
    "schema": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
    "example": "0-12345",
}
_NUMBER: Final = {
    "name": "number",
    "in": "path",
    "required": True,
    "description": "保険者番号 insurer number, 6 or 8 digits",
    "schema": {"type": "string", "pattern": "^[0-9]{6}([0-9]{2})?$"},
    "example": "06139992",
}
_LENGTHS: Final = (408, 411, 413, 415)


# --- callers --------------------------------------------------------------------------------------------------------

_SCOPES: Final = {Scope.CHECK: "POST check", Scope.BATCH: "POST batch", Scope.INSURERS: "GET insurers"}
_SCHEMES: Final = {
    "token": {
        "type": "oauth2",
        "description": "SMART Backend Services: a token of 300 s for a signed assertion (docs/SECURITY.md)",
        "flows": {
            "clientCredentials": {
                "tokenUrl": "/token",
                "scopes": {str(scope): _SCOPES[scope] for scope in Scope},
            }
        },
    },
    "certificate": {"type": "mutualTLS", "description": "A client certificate of the register of callers"},
}
_CALLER_ERRORS: Final = (401, 403, 429)


def _security(scope: Scope) -> list[Json]:
    """Any one of these; the last is for servers that answer everybody on the loopback (`callers = open`)."""
    return [{"token": [str(scope)]}, {"certificate": []}, {}]


def _caller_paths() -> Json:
    token = _operation(
        "callers",
        "getToken",
        "アクセストークンを取得する · Get an access token",
        "登録した公開鍵に対応する秘密鍵で署名した JWT（RS384 または ES384）で、5分間有効なトークンを取得します。"
        "`callers = known` のサーバーだけにあります。\n\n"
        "A token that is good for five minutes, for a JWT signed with a registered key (RS384 or ES384); servers with"
        " `callers = known` only. iss and sub are the client's id, aud is this URL, exp is at most five minutes ahead,"
        " and a jti is taken once. A token asked for over mutual TLS is bound to the certificate.",
        answer=_content("application/json", "TokenAnswer"),
        errors=(401, *_LENGTHS, 417, 421),
        requestBody=_body(_content(tokens.FORM, "TokenRequest")),
    )
    for status in ("400", "401"):
        token["responses"][status]["content"] |= _content("application/json", "OAuthError")
    smart = _operation(
        "callers",
        "smartConfiguration",
        "トークンの取得方法 · How to get a token",
        "トークンエンドポイントと、使える署名方式・scope。\n\n"
        "The token endpoint, and which signatures and scopes it knows.",
        answer=_content("application/json", "SmartConfiguration"),
    )
    return {"/token": {"post": token}, "/.well-known/smart-configuration": {"get": smart}}


# --- the check port -------------------------------------------------------------------------------------------------


def _check_paths() -> Json:
    both = {"schema": {"anyOf": [_ref("CheckAnswer"), _ref("ItemError")]}}
    check = _operation(
        "eligibility",
        "check",
        "資格を一件確認する · Check one person",
        "記号・番号と生年月日、またはマイナンバーカードの証明書で照会します。`VALID`"
        " 以外の判定には、理由と、窓口での対応の"
        "案内が付きます。\n\nBy card (記号・番号 and birth date) or by the certificate on the My Number card. Verdicts:"
        " "
        + ", ".join(f"`{verdict}`" for verdict in Verdict)
        + ". Every verdict but `VALID` has a reason, and advice that the front desk can follow.",
        answer=_content("application/json", "CheckAnswer", valid=examples.ANSWER, unknown=examples.UNKNOWN),
        errors=(*_LENGTHS, *_CALLER_ERRORS, 417, 503),
        parameters=[_REQUEST_ID],
        security=_security(Scope.CHECK),
        requestBody=_body(
            _content(
                "application/json",
                "CheckRequest",
                card=examples.CHECK,
                certificate=examples.CERTIFICATE,
            )
        ),
    )
    check["responses"]["200"]["headers"] = {"Shikaku-Receipt": _RECEIPT}
    batch = _operation(
        "eligibility",
        "checkBatch",
        "まとめて確認する · Check many people",
        "一つの JSON、または一行一件の NDJSON で照会します。応答は同じ順です。NDJSON"
        " では照会の送信中から応答が届くので、"
        "送りながら読んでください。照会できない件は、その位置にエラーが入り、ほかの件には影響しません。\n\n"
        f"A JSON object with up to {limits.BATCH_ITEMS_MAX:,} items, or NDJSON: one inquiry a line in, one answer a"
        f" line out, in the same order, up to {limits.BATCH_LINES_MAX:,} lines in one request. Answers are sent while"
        " inquiries are still coming: read while you write. An item that cannot be asked becomes an error in its place"
        " and never fails the batch. With `Accept: text/csv` a line of NDJSON gets only `verdict,reason,receipt`.",
        answer=_content("application/json", "BatchAnswer", answers={"items": [{"id": "a1", **examples.ANSWER}]})
        | {"application/x-ndjson": both}
        | {
            "text/csv": {"schema": {"type": "string"}, "example": "VALID,,0-12345\nINVALID,insurance_changed,0-12346\n"}
        },
        errors=(*_LENGTHS, *_CALLER_ERRORS, 417, 503),
        parameters=[_REQUEST_ID],
        security=_security(Scope.BATCH),
        requestBody=_body(
            _content("application/json", "BatchRequest", batch=examples.BATCH)
            | _content("application/x-ndjson", "CheckRequest", line={"id": "a1", **examples.CHECK})
        ),
    )
    read = {"security": _security(Scope.INSURERS)}
    return {
        "/v1/eligibility/check": {"post": check},
        "/v1/eligibility/batch": {"post": batch},
        "/v1/receipts/{id}": {"get": _get_receipt() | {"security": [{"token": []}, {"certificate": []}, {}]}},
        "/v1/insurers": {"get": _list_insurers(*_CALLER_ERRORS) | read},
        "/v1/insurers/{number}": {"get": _get_insurer(*_CALLER_ERRORS) | read},
        **_caller_paths(),
    }


def _get_receipt() -> Json:
    return _operation(
        "eligibility",
        "getReceipt",
        "回答の受領証 · Receipt of an answer",
        "回答が監査記録に残されたことの証明。誰でも、オフラインで、公開鍵だけで検証できます。回答から一秒ほどで取得できます。"
        "\n\nThe proof that an answer was recorded, as a `c2sp.org/tlog-proof@v1` text. Anybody who has the log's"
        " public key can verify it offline (`shikaku receipt verify`). It is there about a second after the answer.",
        answer={"text/plain": {"schema": {"type": "string"}}},
        errors=(404, 406, *_CALLER_ERRORS, 503),
        parameters=[_RECEIPT_ID],
    )


def _list_insurers(*errors: int) -> Json:
    return _operation(
        "insurers",
        "listInsurers",
        "保険者の一覧と鮮度 · Insurers and freshness",
        "登録済みの全保険者と、それぞれの最新の登録時刻。\n\n"
        "All registered insurers, and when the last feed of each took"
        " effect.",
        answer=_content("application/json", "InsurerList", insurers={"insurers": [examples.INSURER]}),
        errors=errors,
    )


def _get_insurer(*errors: int) -> Json:
    return _operation(
        "insurers",
        "getInsurer",
        "一つの保険者の鮮度 · Freshness of one insurer",
        "最新の登録がいつ反映され、いつ時点の内容か。\n\n"
        "When its last feed took effect, and for which day that was drawn"
        " up.",
        answer=_content("application/json", "InsurerView", insurer=examples.INSURER),
        errors=(404, *errors),
        parameters=[_NUMBER],
    )


# --- the registry port ----------------------------------------------------------------------------------------------


def _registry_paths() -> Json:
    return {
        "/v1/insurers": {"get": _list_insurers()},
        "/v1/insurers/{number}": {"get": _get_insurer(), "put": _put_insurer()},
        "/v1/insurers/{number}/qualifications": {"post": _post_operations(), "put": _put_qualifications()},
        "/v1/insurers/{number}/feeds": {"post": _feed("postFeed", "ファイルで登録する · Register by file", [_NUMBER])},
        "/v1/feeds": {
            "post": _feed("postOperatorFeed", "複数保険者のファイル · The operator's file, of several insurers", [])
        },
    }


def _put_insurer() -> Json:
    return _operation(
        "insurers",
        "putInsurer",
        "保険者を登録する · Register an insurer",
        "保険者を登録します。登録済みなら名称と設定を変えます。\n\n"
        "Registers the insurer, or changes its name and setting; its freshness"
        " stays.",
        answer=_content("application/json", "InsurerView", insurer=examples.INSURER),
        errors=(404, *_LENGTHS, 503, 507),
        parameters=[_NUMBER],
        requestBody=_body(_content("application/json", "InsurerRequest", insurer={"name": "見本健康保険組合"})),
    )


def _post_operations() -> Json:
    return _operation(
        "registration",
        "postOperations",
        "差分を登録する · Register changes",
        "`new` 取得、`change` 変更、`lose` 喪失、`cancel` 取消を順に、全部まとめて登録します。"
        "応答を受け取れなかったときは、同じ内容をもう一度送ってください。その保険者の別の登録が間になければ、何も変わりません。"
        "同じ内容を新しい操作として送るときは `feed_number` を付けてください。\n\n"
        "Operations `new`, `change`, `lose`, `cancel`, applied in their order, together or not at all. The same body"
        " again, with nothing else of this insurer in between, is taken for a repeat (a lost answer) and changes"
        " nothing; give a `feed_number` to tell a second, equal call from a repeat however late it comes.",
        answer=_receipt(),
        errors=_WRITE_ERRORS,
        parameters=[_NUMBER],
        requestBody=_body(
            _content("application/json", "DeltaRequest", operations={"operations": [examples.OPERATION]})
        ),
    )


def _put_qualifications() -> Json:
    return _operation(
        "registration",
        "putQualifications",
        "資格を現在の内容で登録する · Register qualifications as they are",
        "記号・番号・枝番・取得日が同じ資格があれば置き換え、なければ新しく登録します。\n\n"
        "Each is registered as new if no spell with this card, branch and gained day is known, else replaced.",
        answer=_receipt(),
        errors=_WRITE_ERRORS,
        parameters=[_NUMBER],
        requestBody=_body(
            _content("application/json", "StateRequest", qualifications={"qualifications": [examples.STATE]})
        ),
    )


def _feed(name: str, summary: str, parameters: list[Json]) -> Json:
    csv = {"schema": {"type": "string"}, "examples": {"csv": {"value": examples.CSV}}}
    ndjson = {"schema": _ref("Operation"), "examples": {"line": {"value": examples.OPERATION}}}
    return _operation(
        "registration",
        name,
        summary,
        "見出し行のある CSV（UTF-8 または cp932）か"
        " NDJSON。全件を登録するか、何も登録しないかのどちらかです。誤りは行・列・"
        "コード・値の種類で示します。同じファイルをもう一度送っても何も変わりません。\n\n"
        "CSV (UTF-8 or cp932) with a header row, or NDJSON with one operation a line; the members of `Operation` are"
        " the columns. The whole file is applied, or nothing of it; errors name row, column, code and the kind of"
        f" the value. It must arrive at {limits.BODY_BYTES_PER_SECOND_MIN // 1024} KiB a second or faster. A file sent"
        " before changes nothing and gets its first receipt back.",
        answer=_receipt(),
        errors=_WRITE_ERRORS,
        parameters=[*parameters, *_FEED_PARAMETERS],
        requestBody=_body({"text/csv": csv, "application/x-ndjson": ndjson}),
    )


_WRITE_ERRORS: Final = (403, 404, 409, *_LENGTHS, 422, 503, 507)
_FEED_PARAMETERS: Final = [
    {
        "name": "feed_number",
        "in": "query",
        "description": "Grows with every feed of an insurer",
        "schema": {"type": "integer", "minimum": 0},
    },
    {
        "name": "as_of",
        "in": "query",
        "description": "The day for which the feed was drawn up; default: today in Japan",
        "schema": {"type": "string", "format": "date"},
    },
    {
        "name": "dry_run",
        "in": "query",
        "description": "Check everything, register nothing",
        "schema": {"type": "boolean", "default": False},
    },
    {
        "name": "encoding",
        "in": "query",
        "description": "Of a CSV file, if its Content-Type has no charset",
        "schema": {"enum": ["utf-8", "cp932"], "default": "utf-8"},
    },
]


def _receipt() -> Json:
    example = {
        "feed": 17,
        "insurer": "06139992",
        "feed_number": 322,
        "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "rows": 1,
        "new": 1,
        "changed": 0,
        "lost": 0,
        "cancelled": 0,
        "replayed": False,
        "dry_run": False,
        "data_version": 123457,
        "as_of": "2026-11-23",
        "received_at": "2026-11-23T09:00:00+09:00",
        "warnings": 0,
    }
    return _content("application/json", "Receipt", receipt=example)


def _registry_schemas() -> Json:
    operation = columns.json_schema()
    state = copy.deepcopy(operation)
    del state["properties"]["op"]
    state["required"] = sorted({*(name for name in state["required"] if name != "op"), *_needed_for_new()})
    state.pop("allOf", None)
    return {
        "Operation": {"title": "Operation", **operation},
        "QualificationState": {"title": "QualificationState", **state},
    }


def _needed_for_new() -> list[str]:
    return [column.name for column in columns.COLUMNS if Op.NEW in column.required and column.name != "op"]


# --- both ports -----------------------------------------------------------------------------------------------------


def _common_paths() -> Json:
    plain = {"application/json": {"schema": {"type": "object"}}}
    html = {"text/html": {"schema": {"type": "string"}}}
    code = {
        "name": "code",
        "in": "path",
        "required": True,
        "schema": {"enum": sorted(problems.known_codes())},
        "example": "input.date",
    }
    return {
        "/livez": {
            "get": _operation(
                "service", "livez", "生存 · Alive", "プロセスが動いています。\n\nThe process runs.", answer=plain
            )
        },
        "/readyz": {
            "get": _operation(
                "service",
                "readyz",
                "受付可 · Ready",
                "要求を受け付けます。\n\nRequests may be sent here.",
                answer=plain,
                errors=(503,),
            )
        },
        "/version": {
            "get": _operation(
                "service", "version", "版 · Version", "応答しているプログラム。\n\nWhich program answers.", answer=plain
            )
        },
        "/problems/{code}": {
            "get": _operation(
                "service",
                "problem",
                "エラーの説明 · What a problem means",
                "問題の `type` が指す説明のページ。\n\nThe page that `type` of a problem points to, in Japanese and"
                " English.",
                answer=html,
                errors=(404,),
                parameters=[code],
            )
        },
    }
