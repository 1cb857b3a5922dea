"""The part of Python that a small check may use."""

import ast
import builtins
import importlib
import types

import pytest

from minisw.verify import whitelist
from minisw.verify.whitelist import allowed

FINE = {
    "division": "print(652 // 2)",
    "several steps": "a, b = 3, 4\nc = a * b\nassert c == 12, 'no'\nprint(f'{c:.2f} {c!r}')",
    "a loop": "t = 0\nfor i in range(9):\n    if i % 2 == 0:\n        continue\n    t += i\nelse:\n    t -= 1\nprint(t)",
    "a while": "n = 27\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    if n > 10**6:\n        break\nprint(n)",
    "a function": "def f(x, *a, k=1, **kw):\n    return x * k\nprint(f(3, k=2))",
    "recursion": "def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nprint(f(10))",
    "comprehensions": "print([x for x in range(5) if x], {x: x for x in 'ab'}, {1 for _ in 'a'}, sum(x for x in [1]))",
    "lambda and sort": "print(sorted([3, 1], key=lambda x: -x)[0:1], [*range(3)])",
    "a module": "import math\nprint(math.sqrt(2))",
    "names of a module": "from fractions import Fraction as F\nprint(F(1, 3) + F(1, 6))",
    "all names": "from math import *\nprint(gcd(12, 18), pi)",
    "two modules": "import itertools, functools as ft\nprint(ft.reduce(max, itertools.islice(itertools.count(1), 5)))",
    "exceptions": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    print(e)\nfinally:\n    pass",
    "raise": "try:\n    raise ValueError('x')\nexcept (ValueError, TypeError):\n    print('caught')",
    "walrus": "print((n := 5) > 3, n, not n, -n, ~n, n if n else 0, n is None, n in [5] and n or 0)",
    "annotation": "x: int = 3\nprint(x)",
    "globals": "x = 1\ndef f():\n    global x\n    x = 2\nf()\nprint(x)",
    "nonlocal": "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2\n    g()\n    return x\nprint(f())",
    "delete": "x = [1, 2]\ndel x[0]\nprint(x)",
    "text with underscores": "print('__class__', {'__x__': 1})",
    "the throwaway name": "for _ in range(2):\n    pass\n_x = 1\nprint(_x)",
    "empty": "",
}

REFUSED = {
    "import os": ("import os", "import of os is not allowed"),
    "import below another": ("import math, subprocess", "import of subprocess is not allowed"),
    "import in a function": ("def f():\n    import socket", "import of socket is not allowed"),
    "from os": ("from os import system", "import of os is not allowed"),
    "relative import": ("from . import x", "import of . is not allowed"),
    "part of a module": ("import sympy.utilities", "import of sympy.utilities is not allowed"),
    "from a part": ("from collections.abc import Sized", "import of collections.abc is not allowed"),
    "dunder import": ("__import__('os')", "the name __import__ is not allowed"),
    "builtins": ("__builtins__['open']", "the name __builtins__ is not allowed"),
    "imported dunder": ("from math import __loader__", "the name __loader__ is not allowed"),
    "as a dunder": ("import math as __builtins__", "the name __builtins__ is not allowed"),
    "subclasses": ("().__class__.__bases__[0].__subclasses__()", "the attribute __subclasses__ is not allowed"),
    "private attribute": ("import random\nrandom._os.system('ls')", "the attribute _os is not allowed"),
    "set a private one": ("x = 1\nx._y = 2", "the attribute _y is not allowed"),
    "format": ("'{0.__class__}'.format(1)", "the attribute format is not allowed"),
    "format_map": ("'{a}'.format_map({})", "the attribute format_map is not allowed"),
    "generator frame": ("(x for x in [1]).gi_frame", "the attribute gi_frame is not allowed"),
    "frame": ("def f(x):\n    return x.f_back.f_globals", "the attribute f_globals is not allowed"),
    "traceback": ("try:\n    1/0\nexcept Exception as e:\n    e.tb_frame", "the attribute tb_frame is not allowed"),
    "coroutine frame": ("x.cr_frame", "the attribute cr_frame is not allowed"),
    "async generator": ("x.ag_frame", "the attribute ag_frame is not allowed"),
    "code": ("x.co_code", "the attribute co_code is not allowed"),
    "old globals": ("x.func_globals", "the attribute func_globals is not allowed"),
    "class": ("class A:\n    pass", "ClassDef is not allowed"),
    "with": ("with open('x'):\n    pass", "With is not allowed"),
    "async": ("async def f():\n    pass", "AsyncFunctionDef is not allowed"),
    "yield": ("def f():\n    yield 1", "Yield is not allowed"),
    "match": ("match 1:\n    case 1:\n        pass", "Match is not allowed"),
    "dunder function": ("def __getattr__(x):\n    pass", "the name __getattr__ is not allowed"),
    "dunder argument": ("def f(__x):\n    pass", "the name __x is not allowed"),
    "dunder keyword": ("f(__x=1)", "the name __x is not allowed"),
    "dunder global": ("def f():\n    global a, __builtins__", "the name __builtins__ is not allowed"),
    "dunder exception": ("try:\n    pass\nexcept ValueError as __x:\n    pass", "the name __x is not allowed"),
    "not Python": ("print(", "not valid Python"),
    "prose": ("The sum is 4.", "not valid Python"),
    "null byte": ("print(1)\0", "not valid Python"),
    "surrogate": ("print('\ud800')", "not valid Python"),
    "deep brackets": ("(" * 1000 + ")" * 1000, "not valid Python"),
    "huge number": ("9" * 3999, None),
}


@pytest.mark.parametrize("code", FINE.values(), ids=FINE)
def test_sums_loops_and_functions_are_allowed_and_run_with_the_names_of_a_check(code, capsys):
    assert allowed(code) is None
    exec(code, whitelist.names())
    assert capsys.readouterr().out or not code


@pytest.mark.parametrize("code, reason", REFUSED.values(), ids=REFUSED)
def test_what_leads_out_is_refused_with_its_reason(code, reason):
    assert allowed(code) == reason


@pytest.mark.parametrize(
    "bad", ["(" * 2000, "[" * 3999, "-" * 3999 + "1", "not " * 990 + "1", "lambda:" * 500 + "1", "x." * 1900 + "x"]
)
def test_text_that_is_hard_to_parse_gives_an_answer_and_no_exception(bad):
    assert allowed(bad) in (None, "not valid Python", "Attribute is not allowed")


def test_a_check_may_be_as_long_as_the_limit_and_no_longer():
    code = "x = 1" + " " * (whitelist.MAX_CODE - 5)
    assert len(code) == whitelist.MAX_CODE and allowed(code) is None
    assert allowed(code + " ") == f"longer than {whitelist.MAX_CODE} characters"


def test_every_operator_is_allowed():
    text = "+ - * / // % ** @ << >> | & ^ < <= > >= == != and or in is".split() + ["not in", "is not"]
    assert [o for o in text if allowed(f"print(a {o} b)")] == []
    assert [o for o in text[:13] if allowed(f"a {o}= b")] == []


def test_every_name_in_the_lists_exists():
    assert all(hasattr(builtins, name) for name in whitelist.BUILTINS)
    assert all(issubclass(getattr(ast, name), ast.AST) for name in whitelist.NODES)
    assert len(set(whitelist.MODULES)) == len(whitelist.MODULES)


@pytest.mark.parametrize("name", "open eval exec compile getattr setattr vars globals type object input breakpoint exit".split())
def test_a_check_has_no_builtin_that_opens_files_or_finds_others(name):
    assert allowed(name) is None  # a name alone is no harm
    with pytest.raises(NameError):
        exec(name, whitelist.names())


def test_checks_do_not_share_names():
    first = whitelist.names()
    first["__builtins__"]["print"] = first["x"] = None
    assert "x" not in whitelist.names() and whitelist.names()["__builtins__"]["print"] is print


@pytest.mark.parametrize("name", whitelist.MODULES[:-1])
def test_an_imported_module_shows_its_public_names_and_no_other_module(name):
    importlib.import_module(name)
    names = whitelist.names()
    exec(f"import {name} as m", names)
    shown = vars(names["m"])
    assert shown and not any(n.startswith("_") or isinstance(v, types.ModuleType) for n, v in shown.items())
    assert set(shown) >= {n for n in getattr(importlib.import_module(name), "__all__", [])}


def test_a_module_that_is_not_loaded_or_not_listed_is_not_there(monkeypatch):
    monkeypatch.delitem(whitelist.sys.modules, "sympy", raising=False)
    for name in ("sympy", "os", "sys"):
        with pytest.raises(ImportError, match=f"there is no module {name}"):
            exec(f"import {name}", whitelist.names())
