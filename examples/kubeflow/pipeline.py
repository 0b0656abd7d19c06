"""A Kubeflow pipeline that trains a model and opens its promotion.

Compile with `python pipeline.py pipeline.yaml`, and upload what comes out.
"""

import sys

from kfp import compiler, dsl

# By digest in earnest: a component is as good as the image that it runs.
TRAINING = "docker.io/library/python:3.11-bookworm"
# Mainstay and git; the README says how to make it.
PROMOTION = "registry.example.com/mainstay-git:latest"


@dsl.container_component
def train(source: str, commit: str, model: str, version: str, trained: dsl.Output[dsl.Model]):
    """Trains one version with the locked environment; a gate that refuses it fails the step."""
    return dsl.ContainerSpec(
        image=TRAINING,
        command=[
            "bash",
            "-euc",
            """
            git clone --quiet "$0" /tmp/source
            cd /tmp/source
            git checkout --quiet --detach "$1"
            MAINSTAY_CODE_COMMIT=$(git rev-parse HEAD)
            export MAINSTAY_CODE_COMMIT
            .ci/train "$4" "$2/$3"
            """,
        ],
        args=[source, commit, model, version, trained.path],
    )


@dsl.container_component
def promote(
    trained: dsl.Input[dsl.Model],
    repository: str,
    environment: str,
    model: str,
    version: str,
    branch: str,
):
    """Commits the version to a new branch of the configuration repository, once it has passed every check."""
    return dsl.ContainerSpec(
        image=PROMOTION,
        command=["mainstay"],
        args=[
            "promote",
            "--repo",
            repository,
            "--env",
            environment,
            "--model",
            model,
            "--version",
            version,
            "--from",
            trained.path,
            "--branch",
            branch,
        ],
    )


@dsl.pipeline(name="train-and-promote", description="From a commit to a promotion that awaits its review.")
def train_and_promote(
    commit: str,
    version: str,
    source: str = "https://git.example.com/mainstay.git",
    repository: str = "https://git.example.com/models.git",
    environment: str = "dev",
    model: str = "pred-main",
    branch: str = "promote/kubeflow",
):
    trained = train(source=source, commit=commit, model=model, version=version)
    # What is trained is bytes of a commit: the same again would be the same.
    trained.set_cpu_limit("2").set_memory_limit("4G")
    promoted = promote(
        trained=trained.outputs["trained"],
        repository=repository,
        environment=environment,
        model=model,
        version=version,
        branch=branch,
    )
    # It pushes: whether it has been done already is git's to say, and no cache's.
    promoted.set_caching_options(enable_caching=False)


if __name__ == "__main__":
    compiler.Compiler().compile(train_and_promote, sys.argv[1])
