"""Axes and types of formulas and trainings, checked at each call: importing this first hooks the imports of `penjing.maths` and `.training`."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks a function's arguments and result; an int is a float, as for type checkers."""

install_import_hook(["penjing.maths", "penjing.training"], "typechecked.checked")
