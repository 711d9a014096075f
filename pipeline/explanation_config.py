"""The settings of explanations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.setting_types import CHECKED, Column, Count, Positive, Share, Switch


@dataclass(frozen=True, config=CHECKED)
class ExplanationConfig:
    """How predictions are explained, and the limits of explanations.

    See [explanations.md](explanations.md).

    Attributes:
      enabled: Whether a run has the node Explainer.
      rows: Rows of the month `as_of` to explain.
      background_rows: Rows of the training data whose values stand for features that are left out.
      permutations: Random orders of the features for each row; more are more exact, and take as
        many times longer.
      max_features: Features and groups to explain one by one; of more, those that change
        predictions most, and the rest as one.
      lime_rows: Rows of each kind (most wrong, most uncertain, random) that LIME explains too.
      groups: Features that are explained as one, by a name of your choice: those that depend on
        each other.
      publish_background: Whether the background rows are published with a version, signed, so that
        a server can explain predictions. They are raw features of training rows, without a label.
      max_share: Largest share of the importance that a feature or group may have; 1 for no limit.
      max_move: Largest distance of the shares of importance from those of the served model on the
        same rows, as total variation; 1 for no limit.
      seed: Seed of samples and orders.
    """

    enabled: Switch = True
    rows: Annotated[int, Field(ge=1, le=100_000)] = 500
    background_rows: Annotated[int, Field(ge=1, le=200)] = 50
    permutations: Annotated[int, Field(ge=1, le=100)] = 1
    max_features: Annotated[int, Field(ge=1, le=1000)] = 64
    lime_rows: Count = 3
    groups: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    publish_background: Switch = True
    max_share: Share = 1.0
    max_move: Share = 1.0
    seed: Positive = 1

    def check_groups(self, features: Collection[str]) -> None:
        """Checks the groups.

        Args:
          features: The features of a request.

        Raises:
          ValueError: If a group has no feature or is called as one that it has not, or one of its
            features is none of the model's, or in another group too.
        """
        groups_of: dict[str, str] = {}
        for name, columns in self.groups.items():
            key = f"explanation.groups.{name}"
            if not name.strip() or not columns:
                raise ValueError(f"{key}: a name and one or more features are expected")
            if name in features and name not in columns:
                raise ValueError(f"{key}: {name!r} is a feature that is not in the group")
            for column in columns:
                if column not in features:
                    raise ValueError(f"{key}: {column!r} is none of the model's features")
                if column in groups_of:
                    raise ValueError(
                        f"{key}: {column!r} is in the group {groups_of[column]!r} already"
                        if groups_of[column] != name
                        else f"{key}: {column!r} occurs twice"
                    )
                groups_of[column] = name
