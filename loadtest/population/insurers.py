"""Owns the insurers (保険者) of the population: numbers with valid check digits, and names after the real kinds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from loadtest.population.check_digits import with_check_digit

PREFECTURES: Final = tuple(
    (f"{code:02d}", *line.split())
    for code, line in enumerate(
        """
北海道 ホッカイドウ 506 札幌市 サッポロシ 旭川市 アサヒカワシ 函館市 ハコダテシ
青森県 アオモリケン 118 青森市 アオモリシ 弘前市 ヒロサキシ 八戸市 ハチノヘシ
岩手県 イワテケン 116 盛岡市 モリオカシ 一関市 イチノセキシ 花巻市 ハナマキシ
宮城県 ミヤギケン 226 仙台市 センダイシ 石巻市 イシノマキシ 大崎市 オオサキシ
秋田県 アキタケン 91 秋田市 アキタシ 横手市 ヨコテシ 大館市 オオダテシ
山形県 ヤマガタケン 103 山形市 ヤマガタシ 鶴岡市 ツルオカシ 酒田市 サカタシ
福島県 フクシマケン 177 福島市 フクシマシ 郡山市 コオリヤマシ いわき市 イワキシ
茨城県 イバラキケン 282 水戸市 ミトシ つくば市 ツクバシ 日立市 ヒタチシ
栃木県 トチギケン 189 宇都宮市 ウツノミヤシ 小山市 オヤマシ 栃木市 トチギシ
群馬県 グンマケン 190 前橋市 マエバシシ 高崎市 タカサキシ 太田市 オオタシ
埼玉県 サイタマケン 733 さいたま市 サイタマシ 川口市 カワグチシ 川越市 カワゴエシ
千葉県 チバケン 626 千葉市 チバシ 船橋市 フナバシシ 松戸市 マツドシ
東京都 トウキョウト 1409 千代田区 チヨダク 世田谷区 セタガヤク 八王子市 ハチオウジシ
神奈川県 カナガワケン 923 横浜市 ヨコハマシ 川崎市 カワサキシ 藤沢市 フジサワシ
新潟県 ニイガタケン 213 新潟市 ニイガタシ 長岡市 ナガオカシ 上越市 ジョウエツシ
富山県 トヤマケン 101 富山市 トヤマシ 高岡市 タカオカシ 射水市 イミズシ
石川県 イシカワケン 111 金沢市 カナザワシ 白山市 ハクサンシ 小松市 コマツシ
福井県 フクイケン 74 福井市 フクイシ 坂井市 サカイシ 越前市 エチゼンシ
山梨県 ヤマナシケン 80 甲府市 コウフシ 甲斐市 カイシ 南アルプス市 ミナミアルプスシ
長野県 ナガノケン 200 長野市 ナガノシ 松本市 マツモトシ 上田市 ウエダシ
岐阜県 ギフケン 193 岐阜市 ギフシ 大垣市 オオガキシ 各務原市 カカミガハラシ
静岡県 シズオカケン 355 静岡市 シズオカシ 浜松市 ハママツシ 富士市 フジシ
愛知県 アイチケン 748 名古屋市 ナゴヤシ 豊田市 トヨタシ 岡崎市 オカザキシ
三重県 ミエケン 173 津市 ツシ 四日市市 ヨッカイチシ 鈴鹿市 スズカシ
滋賀県 シガケン 140 大津市 オオツシ 草津市 クサツシ 長浜市 ナガハマシ
京都府 キョウトフ 253 京都市 キョウトシ 宇治市 ウジシ 亀岡市 カメオカシ
大阪府 オオサカフ 876 大阪市 オオサカシ 堺市 サカイシ 東大阪市 ヒガシオオサカシ
兵庫県 ヒョウゴケン 537 神戸市 コウベシ 姫路市 ヒメジシ 西宮市 ニシノミヤシ
奈良県 ナラケン 130 奈良市 ナラシ 橿原市 カシハラシ 生駒市 イコマシ
和歌山県 ワカヤマケン 89 和歌山市 ワカヤマシ 田辺市 タナベシ 橋本市 ハシモトシ
鳥取県 トットリケン 54 鳥取市 トットリシ 米子市 ヨナゴシ 倉吉市 クラヨシシ
島根県 シマネケン 65 松江市 マツエシ 出雲市 イズモシ 浜田市 ハマダシ
岡山県 オカヤマケン 185 岡山市 オカヤマシ 倉敷市 クラシキシ 津山市 ツヤマシ
広島県 ヒロシマケン 274 広島市 ヒロシマシ 福山市 フクヤマシ 呉市 クレシ
山口県 ヤマグチケン 130 下関市 シモノセキシ 山口市 ヤマグチシ 宇部市 ウベシ
徳島県 トクシマケン 70 徳島市 トクシマシ 阿南市 アナンシ 鳴門市 ナルトシ
香川県 カガワケン 93 高松市 タカマツシ 丸亀市 マルガメシ 三豊市 ミトヨシ
愛媛県 エヒメケン 129 松山市 マツヤマシ 今治市 イマバリシ 新居浜市 ニイハマシ
高知県 コウチケン 67 高知市 コウチシ 南国市 ナンコクシ 四万十市 シマントシ
福岡県 フクオカケン 510 福岡市 フクオカシ 北九州市 キタキュウシュウシ 久留米市 クルメシ
佐賀県 サガケン 80 佐賀市 サガシ 唐津市 カラツシ 鳥栖市 トスシ
長崎県 ナガサキケン 127 長崎市 ナガサキシ 佐世保市 サセボシ 諫早市 イサハヤシ
熊本県 クマモトケン 171 熊本市 クマモトシ 八代市 ヤツシロシ 天草市 アマクサシ
大分県 オオイタケン 110 大分市 オオイタシ 別府市 ベップシ 中津市 ナカツシ
宮崎県 ミヤザキケン 104 宮崎市 ミヤザキシ 都城市 ミヤコノジョウシ 延岡市 ノベオカシ
鹿児島県 カゴシマケン 155 鹿児島市 カゴシマシ 霧島市 キリシマシ 鹿屋市 カノヤシ
沖縄県 オキナワケン 147 那覇市 ナハシ 沖縄市 オキナワシ うるま市 ウルマシ
""".strip().splitlines(),
        start=1,
    )
)
"""(code, name, kana, population in ten thousands, then three cities with kana)."""

INDUSTRIES: Final = (
    ("機械工業", "キカイコウギョウ"),
    ("電機", "デンキ"),
    ("情報サービス", "ジョウホウサービス"),
    ("食品", "ショクヒン"),
    ("出版", "シュッパン"),
    ("建設", "ケンセツ"),
    ("鉄道", "テツドウ"),
    ("百貨店", "ヒャッカテン"),
)


@dataclass(frozen=True, slots=True)
class Insurer:
    """One insurer. `kind` is `kyokai`, `kumiai`, `kyosai`, `municipal`, `guild` or `elderly`; `number` has 8 digits."""

    number: str
    name: str
    name_kana: str
    kind: str
    prefecture: int
    ordinal: int

    @property
    def number_as_printed(self) -> str:
        """The number as the insurer itself writes it: municipal ones have six digits."""
        return self.number[2:] if self.number.startswith("00") else self.number


@cache
def insurers() -> tuple[Insurer, ...]:
    """All insurers of the population, always the same, ordered by number."""
    made = []
    for prefecture, (code, name, kana, size, *cities) in enumerate(PREFECTURES):
        for kind, base, full_name, full_kana in _of_prefecture(code, name, kana, int(size), cities):
            made.append((with_check_digit(base).zfill(8), full_name, full_kana, kind, prefecture))
    return tuple(Insurer(*each, ordinal) for ordinal, each in enumerate(sorted(made)))


def _of_prefecture(code: str, name: str, kana: str, size: int, cities: list[str]) -> list[tuple[str, str, str, str]]:
    """Kind, number without its check digit, name and kana of each insurer there."""
    made = [
        ("kyokai", "01" + code + "001", f"全国健康保険協会{name}支部", f"ゼンコクケンコウホケンキョウカイ{kana}シブ"),
        ("kyosai", "32" + code + "001", f"地方職員共済組合{name}支部", f"チホウショクインキョウサイクミアイ{kana}シブ"),
        ("kyosai", "33" + code + "001", f"警察共済組合{name}支部", f"ケイサツキョウサイクミアイ{kana}シブ"),
        ("kyosai", "34" + code + "001", f"公立学校共済組合{name}支部", f"コウリツガッコウキョウサイクミアイ{kana}シブ"),
        (
            "elderly",
            "39" + code + "001",
            f"{name}後期高齢者医療広域連合",
            f"{kana}コウキコウレイシャイリョウコウイキレンゴウ",
        ),
    ]
    if code == "13":
        made.append(("kyosai", "3113001", "中央省庁共済組合", "チュウオウショウチョウキョウサイクミアイ"))
    for n, (industry, industry_kana) in enumerate(INDUSTRIES[: 1 + size // 120], start=1):
        made.append(
            (
                "kumiai",
                f"06{code}{n:03d}",
                f"{name}{industry}健康保険組合",
                f"{kana}{industry_kana}ケンコウホケンクミアイ",
            )
        )
    for n, (city, city_kana) in enumerate(zip(cities[::2], cities[1::2], strict=True), start=1):
        made.append(("municipal", f"{code}{n:03d}", f"{city}国民健康保険", f"{city_kana}コクミンケンコウホケン"))
    if size >= 250:
        made.append(("guild", f"{code}301", f"{name}医師国民健康保険組合", f"{kana}イシコクミンケンコウホケンクミアイ"))
        made.append(
            ("guild", f"{code}302", f"{name}建設国民健康保険組合", f"{kana}ケンセツコクミンケンコウホケンクミアイ")
        )
    return made
