"""The settings classes of a recipe's steps by name, in their usual order, for the command line and YAML."""

from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.gradual import GradualSettings
from penjing.steps.cut.head_weights import HeadWeightsSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.cut.sparsify import SparsifySettings
from penjing.steps.cut.vocabulary import VocabularySettings
from penjing.steps.reshape.activation import ActivationSettings
from penjing.steps.reshape.attention import AttentionSettings
from penjing.steps.reshape.factorise import FactoriseSettings
from penjing.steps.reshape.positions import PositionsSettings
from penjing.steps.reshape.project import ProjectSettings
from penjing.steps.reshape.share import ShareSettings
from penjing.steps.reshape.tokens import TokensSettings
from penjing.steps.settings import Settings
from penjing.steps.teach.distillation import Distillation
from penjing.steps.teach.exits import ExitsSettings
from penjing.steps.teach.mutual import MutualSettings
from penjing.steps.teach.replace import ReplaceSettings
from penjing.steps.teach.self_distill import SelfDistillSettings

STEPS: dict[str, type[Settings]] = {
    step.name: step
    for step in (
        VocabularySettings,
        PruneSettings,
        GradualSettings,
        ShareSettings,
        FactoriseSettings,
        ProjectSettings,
        AttentionSettings,
        ActivationSettings,
        PositionsSettings,
        TokensSettings,
        HeadWeightsSettings,
        Distillation,
        ReplaceSettings,
        MutualSettings,
        SelfDistillSettings,
        ExitsSettings,
        SparsifySettings,
        StoreSettings,
        QuantizeSettings,
    )
}
