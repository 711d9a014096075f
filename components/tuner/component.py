"""Tuner: searches settings with which a model is better than with the configured ones."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from tfx import v1 as tfx

from components.tuner.processes import Trainings
from components.tuner.search import (
    COMPLETE,
    FAILED,
    PRUNED,
    Plan,
    Trial,
    best_trial,
    choose_steps,
    search,
)
from components.tuner.training import Subject
from ml import hyperparameters
from ml.artifacts import TuningReport, schema_uri, split_files
from ml.fit import check_training
from ml.metrics import CLASS_LOG_LOSS
from ml.parameters import load_function, require
from ml.stack import installed_versions
from ml.tasks import Task
from storage.errors import UserError
from storage.import_closure import ImportClosure
from storage.span_store import SpanStore
from storage.tfrecords import count_records
from storage.uris import model_digest

_PROJECT = Path(__file__).parents[2]


@tfx.dsl.components.component
def Tuner(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    transform_graph: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.TransformGraph],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    best_hyperparameters: tfx.dsl.components.OutputArtifact[
        tfx.types.standard_artifacts.HyperParameters
    ],
    report: tfx.dsl.components.OutputArtifact[TuningReport],
    run_fn: tfx.dsl.components.Parameter[str],
    custom_config: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    network: tfx.dsl.components.Parameter[str],
    space: tfx.dsl.components.Parameter[str],
    trials: tfx.dsl.components.Parameter[int],
    parallel: tfx.dsl.components.Parameter[int],
    sample_rows: tfx.dsl.components.Parameter[int],
    finalists: tfx.dsl.components.Parameter[int],
    trial_minutes: tfx.dsl.components.Parameter[float],
    epochs: tfx.dsl.components.Parameter[int],
    batch_size: tfx.dsl.components.Parameter[int],
    learning_rate: tfx.dsl.components.Parameter[float],
    dropout: tfx.dsl.components.Parameter[float],
    l2: tfx.dsl.components.Parameter[float],
    loss: tfx.dsl.components.Parameter[str],
    class_weights: tfx.dsl.components.Parameter[str],
    patience: tfx.dsl.components.Parameter[int],
    seed: tfx.dsl.components.Parameter[int],
    rows_in_memory: tfx.dsl.components.Parameter[int],
) -> None:
    """Tries settings of the training, and passes the best ones to Trainer.

    A trial runs the model's `run_fn` in a process of its own; one that diverges, crashes, hangs or
    runs out of memory has failed, and the others go on. Trials are compared by the task's headline
    metric on `eval`; the split `test` is never read. See `components.tuner.search` for the method.

    It replaces the stock Tuner, whose KerasTuner takes models of Keras 3 and not of `tf_keras`,
    runs all trials in the process of the node, and loses a search that is killed.

    Example:
      tuner = Tuner(
          examples=transform.outputs["transformed_examples"],
          transform_graph=transform.outputs["transform_graph"],
          schema=schema_gen.outputs["schema"],
          run_fn="models.my_model.network.run_fn",
          custom_config=json.dumps(model.custom_config),
          task=model.task.to_json(),
          network="{}",
          space='{"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}}',
          trials=20,
          parallel=4,
          sample_rows=4000,
          finalists=3,
          trial_minutes=30.0,
          epochs=5,
          batch_size=512,
          learning_rate=1e-3,
          dropout=0.0,
          l2=0.0,
          loss="",
          class_weights="",
          patience=2,
          seed=7,
      )

    Args:
      examples: Transformed examples with the splits `train` and `eval`.
      transform_graph: The transformation that made them.
      schema: The schema of the raw examples.
      best_hyperparameters: Component `outputs` contains: the best settings, for Trainer's input
        `hyperparameters`.
      report: Component `outputs` contains: `tuning.json` with the `trials`, their settings, values,
        states and times, the `best` one, and what the configured settings reached (`configured`).
      run_fn: Import path of the function that trains the model; it leaves a `training.json`, as
        `ml.training.fit_and_save` does.
      custom_config: JSON object that `run_fn` gets, with the settings below.
      task: The task, as JSON.
      network: Settings of the model's network, as a JSON object.
      space: The range of each setting to try, by key, as a JSON object: `low`, `high` and `log`, or
        `choices`.
      trials: Number of trials, the first of which has the settings below.
      parallel: Trials that are chosen together.
      sample_rows: Rows of `train` that a trial begins with; 0 for all.
      finalists: Best trials that are trained with two other seeds; 0 for none.
      trial_minutes: Time after which a training is stopped.
      epochs: Largest number of passes over `train`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start.
      dropout: Share of inputs dropped in training.
      l2: Weight of the L2 penalty.
      loss: Name of the Keras loss; "" for the task's.
      class_weights: "balanced", a JSON list of a weight for each class, or "".
      patience: Epochs without a lower loss on `eval` before training stops; 0 trains all.
      seed: Seed of the search and of its trainings.
      rows_in_memory: Largest number of rows that a training holds in memory.

    Raises:
      UserError: If a parameter is not allowed, or no trial is complete.
    """
    began = time.monotonic()
    require(trials >= 1, "trials", trials, "1 or more")
    require(parallel >= 1, "parallel", parallel, "1 or more")
    require(trial_minutes > 0, "trial_minutes", trial_minutes, "above 0")
    parsed = Task.from_json(task)
    check_training(parsed, loss, class_weights)
    load_function(run_fn)
    training = {
        **{"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        **{"dropout": dropout, "l2": l2, "loss": loss, "class_weights": class_weights},
        **{"patience": patience, "seed": seed},
    }
    # Trials start from random weights, as without `base_model`.
    fixed = {"warm_start": 0.0, "network": network, "rows_in_memory": rows_in_memory}
    config = json.loads(custom_config) | training | fixed
    files = {split: tuple(split_files(examples, split)) for split in ("train", "eval")}
    ranges = json.loads(space)
    configured = {f"training.{name}": value for name, value in training.items()}
    configured |= {f"network.{name}": value for name, value in json.loads(network).items()}
    if unknown := sorted(ranges.keys() - configured.keys()):
        raise UserError(f"space: {unknown[0]}: Trainer has no such setting")
    rows = count_records(files["train"])
    plan = Plan(
        space=ranges,
        defaults={key: configured[key] for key in ranges},
        metric=parsed.headline,
        # Accuracies are often equal.
        tie_breaker=CLASS_LOG_LOSS if CLASS_LOG_LOSS in parsed.metrics else parsed.headline,
        trials=trials,
        parallel=parallel,
        steps=choose_steps(rows, sample_rows),
        finalists=finalists,
        seed=seed,
    )
    subject = Subject(
        run_fn=run_fn,
        train_files=files["train"],
        eval_files=files["eval"],
        transform_graph=transform_graph.uri,
        schema=schema_uri(schema),
        custom_config=config,
    )
    digest = _digest(run_fn, examples.uri, transform_graph.uri)
    trainings = Trainings(subject, digest, trial_minutes * 60, SpanStore.of_environment())
    found = search(plan, trainings.run)
    best = best_trial(plan, found)
    hyperparameters.write(best_hyperparameters, best.settings)
    report.write(_describe(plan, found, best, rows, time.monotonic() - began))


def _digest(run_fn: str, examples: str, transform_graph: str) -> str:
    """Digest of the data, the code and the libraries that the result of a training depends on."""
    code = ImportClosure(_PROJECT).code([run_fn, "components.tuner.training"])
    facts = [code, installed_versions(), model_digest(examples), model_digest(transform_graph)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _describe(
    plan: Plan, trials: list[Trial], best: Trial, rows: int, seconds: float
) -> dict[str, Any]:
    """The content of `tuning.json`."""
    states = [trial.state for trial in trials]
    kept = [r for t in trials for r in (*t.results.values(), *t.by_seed.values()) if r.kept]
    return {
        "metric": {
            "name": plan.metric.name,
            "title": plan.metric.title,
            "direction": plan.metric.direction,
        },
        "split": "eval",
        "seed": plan.seed,
        "rows": rows,
        "steps": [step or rows for step in plan.steps],
        "space": plan.space,
        "counts": {state: states.count(state) for state in (COMPLETE, PRUNED, FAILED)},
        "kept_trainings": len({id(result) for result in kept}),
        "seconds": round(seconds, 1),
        "configured": _outcome(plan, trials[0]),
        "best": _outcome(plan, best),
        "trials": [
            {
                **_outcome(plan, trial),
                "state": trial.state,
                "why": trial.why,
                "seconds": round(trial.seconds, 2),
                "trainings": [
                    {
                        "rows": step or rows,
                        "value": result.metrics.get(plan.metric.name),
                        "epochs": result.epochs,
                        "seconds": round(result.seconds, 2),
                    }
                    for step, result in trial.results.items()
                ],
                "by_seed": {
                    str(seed): result.metrics.get(plan.metric.name)
                    for seed, result in trial.by_seed.items()
                },
            }
            for trial in trials
        ],
    }


def _outcome(plan: Plan, trial: Trial) -> dict[str, Any]:
    """Number, settings and value of a trial; no value if it is not complete."""
    value = trial.mean(plan.metric)
    return {"number": trial.number, "settings": dict(trial.settings), "value": value}
