"""The printed values of the paper's Tables 1 to 3 (arXiv 2607.04037), to compare with and to test the table code on."""

from __future__ import annotations

from rgopd.evaluate.scores import Block, Column, Role, Row, Score

TEACHER, STUDENT = "Qwen2.5-14B (teacher)", "Qwen2.5-1.5B (student)"
GENERATIVE = ("GSM8K", "GSM+", "MATH", "MPMath", "MBPP", "IFEval")
OTHERS = ("SciQ", "MSTEM", "MuSR", "BBH")

_TABLE_1 = {
    1024: """
Qwen2.5-14B (teacher)  | 76.83 .61 | 57.18 .41 | 30.33 .81 | 78.86 .79 | 53.13 3.11 | 84.17 1.02
Qwen2.5-1.5B (student) | 56.89 1.92 | 38.69 1.09 | 27.47 2.09 | 37.33 1.37 | 43.73 1.86 | 52.12 1.64
Reverse KL             | 65.91 1.15 | 42.97 .80 | 25.08 1.10 | 37.26 .93 | 46.60 .60 | 46.28 1.50
TSD-KD                 | 54.21 .55 | 35.10 .61 | 27.10 .58 | 38.91 1.27 | 42.20 1.04 | 54.68 .98
TSD-KD (borrowed)      | 60.10 | 40.50 | 26.10 | 36.90 | 42.10 | 55.20
RG-OPD                 | 66.69 .56 | 45.47 .31 | 28.63 1.27 | 42.91 .83 | 49.33 .76 | 48.60 .87""",
    8096: """
Qwen2.5-14B (teacher)  | 83.88 .31 | 67.44 .23 | 76.12 .18 | 79.77 .59 | 72.47 2.53 | 84.53 .43
Qwen2.5-1.5B (student) | 58.20 2.14 | 40.63 .78 | 41.09 3.51 | 37.38 1.41 | 44.00 1.93 | 52.24 1.76
Reverse KL             | 72.63 1.45 | 52.33 .59 | 49.80 .83 | 37.28 .96 | 47.27 .81 | 46.08 1.87
TSD-KD                 | 54.59 .62 | 35.35 .56 | 27.89 .65 | 38.91 1.27 | 42.33 .99 | 54.80 .55
RG-OPD                 | 73.77 .80 | 54.50 .19 | 52.60 .61 | 42.88 .86 | 50.00 1.04 | 48.68 .84""",
}

_TABLE_2 = """
K=20, no tail | 67.53 .50 | 45.45 .12 | 27.49 1.34 | 38.44 1.07 | 46.80 3.03 | 47.28 .48
K=20          | 67.58 .76 | 45.60 .57 | 28.33 1.64 | 42.36 .87 | 47.67 1.53 | 47.36 .67
K=30          | 67.93 .80 | 46.06 .24 | 28.57 1.12 | 43.38 1.19 | 49.27 .76 | 47.36 .43
K=50          | 66.69 .56 | 45.47 .31 | 28.63 1.27 | 42.91 .83 | 49.33 .76 | 48.60 .87"""

_TABLE_3 = """
Qwen2.5-14B (teacher)  | 98.53 .32 | 84.91 .62 | 56.48 .83 | 80.10 .13 | 86.80 | 75.55 | 41.01 | 51.71
Qwen2.5-1.5B (student) | 96.73 .70 | 56.71 1.03 | 43.08 1.41 | 47.09 17.17 | 89.50 | 53.57 | 36.90 | 36.19
Reverse KL             | 97.37 .25 | 56.30 1.43 | 44.66 .68 | 44.52 .40 | 80.00 | 52.17 | 35.85 | 32.70
TSD-KD                 | 97.20 .56 | 52.55 2.01 | 42.46 2.20 | 37.08 1.55 | 93.60 | 53.44 | 39.81 | 37.96
RG-OPD                 | 97.80 .20 | 59.46 .48 | 44.89 1.45 | 44.04 .31 | 79.00 | 53.85 | 37.83 | 34.40"""


def table_1(length: int) -> Block:
    """The block of one generation length, 1024 or 8096."""
    return _block(f"Generation length {length}", _TABLE_1[length], [Column(label) for label in GENERATIVE])


def table_2() -> Block:
    """The ablation of K and the tail; its baseline is the default."""
    return _block("Ablation of K", _TABLE_2, [Column(label) for label in GENERATIVE], baseline="K=50")


def table_3() -> Block:
    """Four benchmarks by generation and by likelihood, ranked over all eight columns."""
    columns = [Column(label) for label in OTHERS] + [Column(label, "likelihood") for label in OTHERS]
    return _block("Generation and likelihood", _TABLE_3, columns)


def _block(title: str, text: str, columns: list[Column], baseline: str = STUDENT) -> Block:
    rows = []
    for line in text.strip().splitlines():
        name, *cells = (part.strip() for part in line.split("|"))
        scores = [Score(float(words[0]), float(words[1]) if words[1:] else None) for words in map(str.split, cells)]
        role: Role = "teacher" if name == TEACHER else "reference" if "borrowed" in name else "ranked"
        rows.append(Row(name, dict(zip(columns, scores, strict=True)), role))
    return Block(title, tuple(columns), tuple(rows), baseline)
