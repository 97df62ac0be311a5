"""The configuration of every stage: one class per section of a recipe.

Nothing heavy is imported here, so that a mistake in a recipe is reported before torch is loaded.
"""

from edit_r1.stages.bases import PretrainEditorConfig, PretrainVerifierConfig, TinySize
from edit_r1.stages.claims import ARMS, SIZES, Arm, ClaimsConfig, ClaimsRecipe, Size
from edit_r1.stages.data import (
    EDITOR_TASKS,
    EDITS,
    HELDOUT_PAIRS,
    PROBE,
    SAMPLED,
    TEST_PAIRS,
    TRACES,
    TRAIN_PAIRS,
    EndpointConfig,
    GoldConfig,
    Measured,
    PairFormat,
    PairsConfig,
    SampleConfig,
    SamplingConfig,
    TasksConfig,
    TeacherConfig,
    TracesConfig,
    WorldConfig,
)
from edit_r1.stages.editor import CategoryWeights, EditorGrpoConfig, RewardConfig
from edit_r1.stages.editor_claims import EditorArm, EditorClaimsConfig, EditorClaimsRecipe
from edit_r1.stages.evaluation import (
    BestOfConfig,
    CalibrationConfig,
    EditConfig,
    EditsConfig,
    EvaluateConfig,
    SanityConfig,
)
from edit_r1.stages.guards import GuardsConfig
from edit_r1.stages.verifier import (
    BackboneConfig,
    BradleyTerryConfig,
    ColdStartConfig,
    GcpoConfig,
    SftConfig,
    TraceDpoConfig,
    TraceForm,
)

__all__ = [
    "ARMS",
    "EDITOR_TASKS",
    "EDITS",
    "HELDOUT_PAIRS",
    "PROBE",
    "SAMPLED",
    "SIZES",
    "TEST_PAIRS",
    "TRACES",
    "TRAIN_PAIRS",
    "Arm",
    "BackboneConfig",
    "BestOfConfig",
    "BradleyTerryConfig",
    "CalibrationConfig",
    "CategoryWeights",
    "ClaimsConfig",
    "ClaimsRecipe",
    "ColdStartConfig",
    "EditConfig",
    "EditorArm",
    "EditorClaimsConfig",
    "EditorClaimsRecipe",
    "EditorGrpoConfig",
    "EditsConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "GcpoConfig",
    "GoldConfig",
    "GuardsConfig",
    "Measured",
    "PairFormat",
    "PairsConfig",
    "PretrainEditorConfig",
    "PretrainVerifierConfig",
    "RewardConfig",
    "SampleConfig",
    "SamplingConfig",
    "SanityConfig",
    "SftConfig",
    "Size",
    "TasksConfig",
    "TeacherConfig",
    "TinySize",
    "TraceDpoConfig",
    "TraceForm",
    "TracesConfig",
    "WorldConfig",
]
