"""The units that are known by name: each with its dimension and its factor to that dimension's base unit."""

from __future__ import annotations

from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]
UNITS: dict[str, tuple[Dimensions, Fraction]] = {}


def _define(dimensions: str, table: str) -> None:
    powers = tuple((name, int(power or 1)) for name, _, power in (d.partition("^") for d in dimensions.split()))
    for entry in table.split(";"):
        *names, factor = entry.split()
        for name in names:
            UNITS[name] = (powers, Fraction(factor))


_define(
    "length",
    """nm nanometer 1e-9; micrometer micron 1e-6; mm millimeter millimetre 毫米 1e-3; dm decimeter decimetre 分米 1/10;
    cm centimeter centimetre 厘米 1/100; m meter metre 米 1; km kilometer kilometre 千米 公里 1000;
    in inch inches 0.0254; ft foot feet 英尺 0.3048; yd yard 0.9144; mi mile 英里 1609.344;
    light-year 9460730472580800""",
)
_define("length^2", "hectare ha 公顷 10000; acre 4046.8564224")
_define(
    "length^3",
    """ml mL milliliter millilitre cc 毫升 1e-6; cl cL 1e-5; dl dL 1e-4; l L liter litre 升 1/1000;
    gallon gal 0.003785411784; quart qt 0.000946352946; pint pt 0.000473176473; tablespoon tbsp 0.00001478676478125;
    teaspoon tsp 0.00000492892159375""",
)
_define("length time^-1", "mph 1397/3125; kph kmh kmph 5/18; knot 463/900")
_define(
    "mass",
    """microgram 1e-9; mg milligram 毫克 1e-6; g gram 克 1/1000; kg kilogram kilo 千克 公斤 1; tonne 吨 1000;
    lb lbs pound 0.45359237; oz ounce 0.028349523125""",
)
_define(
    "time",
    """ns nanosecond 1e-9; ms millisecond 1e-3; s sec second 秒 1; min minute 分钟 分 60; h hr hour 小时 3600;
    day 天 86400; week 周 604800; fortnight 1209600""",
)
_define("years", "month 个月 1; year yr 年 岁 12; decade 120; century centuries 1200")
_define("angle", "° degree deg 度 1; arcminute 1/60; arcsecond 1/3600; revolution rev 360")
_define("radian", "rad radian 弧度 1")
_define("celsius", "°C celsius 摄氏度 1")
_define("fahrenheit", "°F fahrenheit 华氏度 1")
_define("kelvin", "K kelvin 1")
_define("usd", "$ dollar usd USD US$ buck 美元 1; nickel 1/20; dime 1/10")
_define("eur", "€ euro eur EUR 欧元 1")
_define("gbp", "£ gbp GBP sterling 英镑 1; pence penny 1/100")
_define("yuan", "yuan rmb RMB CNY 元 人民币 1; 角 1/10")
_define("yen", "yen JPY 日元 1")
_define("yuan or yen", "¥ 1")
_define("inr", "₹ rupee Rs INR 1; paise 1/100")
_define("cents", "cent ¢ 1")
_define("force", "N newton 牛 牛顿 1; kN 1000")
_define("energy", "J joule 焦 焦耳 1; kJ 1000; cal calorie 4.184; kcal 4184; kWh 3600000; eV 1.602176634e-19")
_define("power", "W watt 瓦 1; kW kilowatt 1000; MW megawatt 1e6; mW 1e-3")
_define("pressure", "Pa pascal 1; kPa 1000; MPa 1e6; atm 101325")
_define("frequency", "Hz hertz 1; kHz 1000; MHz 1e6; GHz 1e9")
_define("charge", "C coulomb 1")
_define("current", "A amp ampere 1; mA 1e-3")
_define("voltage", "V volt 1; mV 1e-3; kV 1000")
_define("resistance", "ohm 1")
_define("amount", "mol mole 1; mmol 1e-3")
_define("information", "bit 1; byte 8; kB KB 8000; MB 8000000; GB 8000000000")

SAME = {frozenset({"yuan or yen", "yuan"}), frozenset({"yuan or yen", "yen"})}
MONEY = frozenset({"usd", "eur", "gbp", "yuan", "yen", "yuan or yen", "inr", "cents"})


def lookup(name: str) -> tuple[Dimensions, Fraction] | None:
    """A unit by its symbol (case counts) or its name in the singular or plural (case does not)."""
    low = name if len(name) < 3 else name.lower()
    for key in (name, low, low.removesuffix("s"), low.removesuffix("es")):
        if key in UNITS and (key == name or len(name) > 2):
            return UNITS[key]
    return None
