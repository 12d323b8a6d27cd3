"""The model card: what a model is and how it was checked, in Markdown for people."""

from jinja2 import Environment, StrictUndefined

from msq.bundle import Manifest

_TEMPLATE = """\
# {{ m.name }}

{{ m.model }}, trained by {{ m.method }} on {{ m.data.name }}, for the runtime format `{{ m.lowering }}`.
It takes {{ m.input.height }} × {{ m.input.width }} images with {{ m.input.channels }} channel(s){{ framing }}
and tells {{ m.labels | length }} classes apart: {{ m.labels | join(", ") }}.

## Accuracy

Measured in training, over the test set ({{ m.data.test }} images).

| net | top-1 | correct | of |
|---|---|---|---|
{% for a in m.accuracy -%}
| {{ a.what }} | {{ "%.2f" | format(100 * a.top1) }} % | {{ a.correct }} | {{ a.n }} |
{% endfor %}
## Size

| | bytes |
|---|---|
| model, as deployed | {{ m.sizes.model_bytes }} |
| weights, by their bits | {{ m.sizes.weight_bytes }} |
| scales and biases | {{ m.sizes.parameter_bytes }} |
| the same model with 8-bit weights | {{ m.sizes.int8_bytes }} |
| the same model in float32 | {{ m.sizes.float32_bytes }} |

{{ "%.3f" | format(m.average_bits) }} stored bits a weight on average, signs included.
{% if m.paper_compression is not none -%}
Compression as the papers count it (signs left out): {{ "%.2f" | format(m.paper_compression) }}.
{% endif -%}
Held in memory: {{ m.sizes.resident_weight_bytes }} bytes of weights ({{ m.sizes.resident_note }}).

{% if m.arena -%}
## Memory of activations

One arena of {{ m.arena.bytes }} bytes; no plan takes less than {{ m.arena.bound_bytes }}.

| node | bytes in use while it runs |
|---|---|
{% for node, size in m.arena.timeline.items() -%}
| {{ node }} | {{ size }} |
{% endfor %}
{% endif -%}
## Layers

| layer | kind | shape | bits | packed bytes |
|---|---|---|---|---|
{% for layer in m.layers -%}
| {{ layer.name }} | {{ layer.op }} | {{ layer.shape | join(" × ") }} | {{ layer.bits }} | {{ layer.packed_bytes }} |
{% endfor %}
## Checks at export

- The runtime on the exporting machine against the oracle: {{ m.parity.values }} values of {{ m.parity.tensors }}
  tensors, largest difference {{ m.parity.max_lsb }} LSB.
{% if m.parity.whole -%}
- Operators were compared one by one, for this runtime rounds in its own way. The whole model gives the oracle's class
  for {{ m.parity.whole.agreeing }} of {{ m.parity.whole.images }} test images.
{% endif -%}
{% if m.fidelity -%}
- The integer model against the trained program: the same class for {{ m.fidelity.agreeing }} of
  {{ m.fidelity.images }} test images, outputs at most {{ m.fidelity.max_lsb }} LSB apart.
{% endif %}
## Origin

- data: {{ m.data.name }}, sha256 {{ m.data.sha256 }}, {{ m.data.train }} training and {{ m.data.test }} test images
- seed: {{ m.seed }}
- checkpoint: sha256 {{ m.checkpoint_sha256 }}
{% for name, version in m.versions | dictsort -%}
- {{ name }} {{ version }}
{% endfor -%}

"""


def model_card(manifest: Manifest) -> str:
    """Return the card of a bundle as Markdown."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
    return environment.from_string(_TEMPLATE).render(m=manifest, framing=_framing(manifest))


def _framing(manifest: Manifest) -> str:
    """Return how an image of another size becomes the model's, in words."""
    how = manifest.input.framing
    if how is None:
        return ""
    scaled = f"scaled to a short side of {how.short} pixels and" if how.short else "scaled to cover that and"
    return f" (others {'turned upright, ' if how.upright else ''}{scaled} cut to the centre, {how.resampling})"
