from __future__ import annotations

import pytest

from chorus_client.thinking.harmony import HarmonySplitter
from chorus_client.thinking.select import splitter_for, style_of
from chorus_client.thinking.splitter import Channel, Part, Unsplit
from chorus_client.thinking.think_tags import ThinkTagSplitter
from chorus_proto.values import ThinkingStyle

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3 = (
    "{%- set content = content.split('</think>')[-1] %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
QWQ = (
    "{%- set content = (message.content.split('</think>')|last).lstrip('\\n') %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)
R1 = (
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}"
)
V3_1 = (
    "{%- if add_generation_prompt and ns.is_last_user %}{{'<|Assistant|>'}}"
    "{%- if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}{%- endif %}{%- endif %}"
)
RAW = "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
ONLY_HISTORY = "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ x.split('</think>')[-1] }}"
GPT_OSS = "{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}"


@pytest.mark.parametrize(
    ("template", "style"),
    [
        (CHATML, ThinkingStyle.PLAIN),
        (QWEN3, ThinkingStyle.TAGS),
        (QWQ, ThinkingStyle.OPENED_TAGS),
        (R1, ThinkingStyle.OPENED_TAGS),
        (V3_1, ThinkingStyle.OPENED_TAGS),
        (RAW, ThinkingStyle.OPENED_TAGS),
        (ONLY_HISTORY, ThinkingStyle.TAGS),
        ("{{ '<think>' }}", ThinkingStyle.TAGS),
        (GPT_OSS, ThinkingStyle.HARMONY),
    ],
)
def test_the_chat_template_tells_how_a_model_thinks(template: str, style: ThinkingStyle) -> None:
    assert style_of(name="anything", template=template) is style


@pytest.mark.parametrize(
    ("name", "architecture", "style"),
    [
        ("gpt-oss:20b", "", ThinkingStyle.HARMONY),
        ("unsloth/GPT_OSS-20b-GGUF", "", ThinkingStyle.HARMONY),
        ("mine", "gpt-oss", ThinkingStyle.HARMONY),
        ("mine", "gptoss", ThinkingStyle.HARMONY),
        ("mine", "GptOssForCausalLM", ThinkingStyle.HARMONY),
        ("deepseek-r1:8b", "qwen2", ThinkingStyle.TAGS),
        ("Qwen/QwQ-32B", "", ThinkingStyle.TAGS),
        ("qwen3:4b", "", ThinkingStyle.TAGS),
        ("qwen3-coder:30b", "", ThinkingStyle.PLAIN),
        ("Qwen3-4B-Instruct-2507", "", ThinkingStyle.PLAIN),
        ("qwen3-embedding:0.6b", "", ThinkingStyle.PLAIN),
        ("llama3.2:3b", "llama", ThinkingStyle.PLAIN),
        ("", "", ThinkingStyle.PLAIN),
    ],
)
def test_without_a_template_the_name_and_the_architecture_decide(
    name: str, architecture: str, style: ThinkingStyle
) -> None:
    assert style_of(name=name, architecture=architecture) is style


def test_a_template_overrules_the_name() -> None:
    assert style_of(name="gpt-oss-tuned-on-chatml", template=CHATML) is ThinkingStyle.PLAIN


def test_each_style_has_its_splitter() -> None:
    assert isinstance(splitter_for(ThinkingStyle.PLAIN), Unsplit)
    assert isinstance(splitter_for(ThinkingStyle.HARMONY), HarmonySplitter)
    assert isinstance(splitter_for(ThinkingStyle.TAGS), ThinkTagSplitter)
    assert splitter_for(ThinkingStyle.OPENED_TAGS).feed("why") == [Part(Channel.ANALYSIS, "why")]
    assert splitter_for(ThinkingStyle.TAGS).feed("yes") == [Part(Channel.FINAL, "yes")]


@pytest.mark.parametrize("style", [ThinkingStyle.TAGS, ThinkingStyle.OPENED_TAGS])
@pytest.mark.parametrize(
    ("prompt", "channel"),
    [
        ("<|im_start|>assistant\n<think>\n", Channel.ANALYSIS),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Channel.FINAL),
        ("<|im_start|>assistant\n", Channel.FINAL),
    ],
)
def test_the_end_of_the_prompt_says_whether_the_thought_is_open(
    style: ThinkingStyle, prompt: str, channel: Channel
) -> None:
    assert splitter_for(style, prompt=prompt).channel is channel
