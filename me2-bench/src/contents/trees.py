"""Keeps the syntax trees of Python's own library, until it is killed."""

import ast
import pathlib
import sysconfig
import time

trees = []
for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py")):
    if "site-packages" in path.parts:
        continue
    try:
        trees.append(ast.parse(path.read_text()))
    except (SyntaxError, ValueError, OSError):
        continue
    if len(trees) == 1200:
        break
time.sleep(10)
