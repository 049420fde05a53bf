"""The subcommand `dreamcache push`: a bundle to the Hugging Face Hub, with a model card made of its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.bundle.hub import is_hub_id
from dreamcache.runtime.cli import options
from dreamcache.runtime.errors import OutputError, SettingsError, first_line
from dreamcache.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dreamcache.runtime.bundle.contract import Contract

CARD = """---
library_name: dreamcache
license: {license}
pipeline_tag: text-to-image
tags: [dreamcache, onnx, personalization, subject-driven]
---

# {name}

A bundle of [DreamCache](https://arxiv.org/abs/2411.17786): one reference picture in, new pictures of that subject
out, without PyTorch and without fine-tuning.

```python
from dreamcache.runtime import Pipeline

pipe = Pipeline.load("{hub_id}")
subject = pipe.cache("reference.png")
pipe.generate("a {{thing}} on the beach", subject, seed=7).save("picture.png")
```

| | |
|---|---|
{rows}

## Measured against PyTorch

| | |
|---|---|
{gates}

`dreamcache verify {hub_id}` runs every graph on your machine and compares it with what PyTorch computed.
"""


def push(
    bundle: options.BundleFolder,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.")],
    license_id: Annotated[
        str,
        typer.Option("--license", metavar="ID", help="Licence in the card, by the Hub's id; default other."),
    ] = "other",
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Upload a bundle to the Hugging Face Hub, with a model card made of its contract."""
    if not is_hub_id(repository) or "@" in repository:
        raise SettingsError(f"a repository as owner/name is expected, received {repository!r}")
    hub: Any
    import huggingface_hub as hub

    from dreamcache.runtime.bundle.contract import CONTRACT_NAME
    from dreamcache.runtime.bundle.folder import open_bundle

    with progress_bar("checking") as advance:
        opened = open_bundle(bundle, progress=advance)
    card = model_card(opened.contract, repository, license_id)
    places = {name: str(opened.path(name)) for name in (CONTRACT_NAME, *opened.contract.files)}
    contents: dict[str, str | bytes] = {**places, "README.md": card.encode()}
    operations = [hub.CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message="A DreamCache bundle")
    except Exception as error:  # the Hub's errors share no base: network, token, name, quota
        raise OutputError(
            f"{repository} was not written ({first_line(error)}); is `hf auth login` done?"
        ) from error
    options.print_result({"repository": repository, "url": str(done.repo_url)}, str(done.repo_url), as_json)


def model_card(contract: Contract, hub_id: str, license_id: str) -> str:
    """The text of a bundle's README.md on the Hub."""
    shape, parity = contract.architecture, contract.parity
    rows = {
        "base": shape.name,
        "weights": "random: for speed and memory alone" if contract.weights == "random" else "trained",
        "pictures": f"{shape.image_width} × {shape.image_height} px",
        "precision": contract.precision,
        "guidance": f"{contract.guidance.mode}, {contract.guidance.steps} steps of {contract.guidance.scheduler}",
        "size": f"{sum(record.size for record in contract.files.values()) / 1e6:.1f} MB",
        **{f"joined {one.kind}": one.name for one in contract.joined},
        "fingerprint of the base": f"`{contract.fingerprints.base[:16]}…`",
    }
    gates = {f"{name} graph": f"{value:.1f} dB" for name, value in parity.psnr_db.items()}
    gates |= {
        f"effect of the {name}": f"{value:.3f} of PyTorch's" for name, value in parity.condition.items()
    }

    def table(facts: dict[str, str]) -> str:
        return "\n".join(
            f"| {name} | {' '.join(str(value).split()).replace('|', '')} |" for name, value in facts.items()
        )

    return CARD.format(
        license=license_id, name=hub_id.partition("/")[2], hub_id=hub_id, rows=table(rows), gates=table(gates)
    )
