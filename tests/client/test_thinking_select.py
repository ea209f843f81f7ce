from __future__ import annotations

import pytest

from chorus_client.thinking.harmony import HarmonySplitter
from chorus_client.thinking.select import Style, splitter_for, style_of
from chorus_client.thinking.splitter import Channel, Part, Unsplit
from chorus_client.thinking.think_tags import ThinkTagSplitter

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
        (CHATML, Style.PLAIN),
        (QWEN3, Style.TAGS),
        (QWQ, Style.OPENED_TAGS),
        (R1, Style.OPENED_TAGS),
        (V3_1, Style.OPENED_TAGS),
        (RAW, Style.OPENED_TAGS),
        (ONLY_HISTORY, Style.TAGS),
        ("{{ '<think>' }}", Style.TAGS),
        (GPT_OSS, Style.HARMONY),
    ],
)
def test_the_chat_template_tells_how_a_model_thinks(template: str, style: Style) -> None:
    assert style_of(name="anything", template=template) is style


@pytest.mark.parametrize(
    ("name", "architecture", "style"),
    [
        ("gpt-oss:20b", "", Style.HARMONY),
        ("unsloth/GPT_OSS-20b-GGUF", "", Style.HARMONY),
        ("mine", "gpt-oss", Style.HARMONY),
        ("mine", "gptoss", Style.HARMONY),
        ("mine", "GptOssForCausalLM", Style.HARMONY),
        ("deepseek-r1:8b", "qwen2", Style.TAGS),
        ("Qwen/QwQ-32B", "", Style.TAGS),
        ("qwen3:4b", "", Style.TAGS),
        ("qwen3-coder:30b", "", Style.PLAIN),
        ("Qwen3-4B-Instruct-2507", "", Style.PLAIN),
        ("qwen3-embedding:0.6b", "", Style.PLAIN),
        ("llama3.2:3b", "llama", Style.PLAIN),
        ("", "", Style.PLAIN),
    ],
)
def test_without_a_template_the_name_and_the_architecture_decide(name: str, architecture: str, style: Style) -> None:
    assert style_of(name=name, architecture=architecture) is style


def test_a_template_overrules_the_name() -> None:
    assert style_of(name="gpt-oss-tuned-on-chatml", template=CHATML) is Style.PLAIN


def test_each_style_has_its_splitter() -> None:
    assert isinstance(splitter_for(Style.PLAIN), Unsplit)
    assert isinstance(splitter_for(Style.HARMONY), HarmonySplitter)
    assert isinstance(splitter_for(Style.TAGS), ThinkTagSplitter)
    assert splitter_for(Style.OPENED_TAGS).feed("why") == [Part(Channel.ANALYSIS, "why")]
    assert splitter_for(Style.TAGS).feed("yes") == [Part(Channel.FINAL, "yes")]


@pytest.mark.parametrize("style", [Style.TAGS, Style.OPENED_TAGS])
@pytest.mark.parametrize(
    ("prompt", "channel"),
    [
        ("<|im_start|>assistant\n<think>\n", Channel.ANALYSIS),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Channel.FINAL),
        ("<|im_start|>assistant\n", Channel.FINAL),
    ],
)
def test_the_end_of_the_prompt_says_whether_the_thought_is_open(style: Style, prompt: str, channel: Channel) -> None:
    assert splitter_for(style, prompt=prompt).channel is channel
