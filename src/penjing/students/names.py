"""Students that are no BERT by name, for the command line and YAML."""

from penjing.students.bilstm import Bilstm
from penjing.students.logistic import Logistic
from penjing.students.soft_tree import SoftTree
from penjing.students.static import Static
from penjing.students.student import Student
from penjing.students.tree import Tree
from penjing.students.trees import Trees

STUDENTS: dict[str, Student] = {student.name: student for student in (Bilstm(), Logistic(), Trees(), Tree(), SoftTree(), Static())}
"""Students by name, in their default settings."""
