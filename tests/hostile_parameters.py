"""Options that nobody means well with."""

from catalogue import RED, Answer, Case, One, Served

INVALID = "422 invalid_parameter"
DIGITS = "9" * 10_000


def asked(query: str, model: str = "colours", **headers: str) -> One:
    def act(served: Served) -> Answer:
        return served.classify(RED, f"?{query}", f"/v1/models/{model}:classify", **headers)

    return act


def wrong(number: str, name: str, **values: str) -> list[Case]:
    return [Case(f"{number}-{name}-{what}", asked(f"{name}={value}"), INVALID) for what, value in values.items()]


CASES = [
    *wrong("P01", "top_k", zero="0", negative="-1", more_than_classes="4", fraction="1.5", text='"5"', true="true"),
    *wrong("P01", "top_k", huge=str(10**30), nan="NaN", hexadecimal="0x5", spaced="%205", exponent="1e0"),
    *wrong("P02", "stop", nan="confident:nan", inf="confident:inf", negative="confident:-0.1", more="confident:1.1"),
    *wrong("P02", "stop", nothing="confident:", unknown="soon", long="confident:0." + "1" * 10_000),
    Case("P03-unknown-views", asked("views=eleven_crop"), "422 unknown_views"),
    Case("P03-views-of-10-kb", asked(f"views={DIGITS}"), "422 unknown_views"),
    Case("P03-views-empty", asked("views="), "422 unknown_views"),
    Case("P03-views-of-a-path", asked("views=..%2f..%2fplans"), "422 unknown_views"),
    Case("P04-work-over-the-cap", asked("views=ten_crop", "heavy"), "422 work_limit"),
    *wrong("P05", "timeout_ms", zero="0", negative="-1", nan="NaN", huge=str(10**18), fraction="0.5", infinite="inf"),
    *wrong("P05", "priority", two="2", minus_two="-2", nan="NaN", text="high"),
    Case("P06-unknown-model", asked("", "dogs"), "404 model_not_found"),
    Case("P06-unknown-version", asked("version=99"), "404 model_not_found"),
    Case("P06-version-zero", asked("version=0"), INVALID, why="neither a number of a version nor an alias"),
    Case("P06-version-of-10-kb", asked(f"version={DIGITS}"), INVALID, why="as above"),
    *wrong("P07", "top_k", other_digits="%D9%A3", wide_digits="%EF%BC%95", empty="", ten_kb=DIGITS, underscore="1_0"),
    Case("P08-resize", asked("resize=300"), "422 unknown_parameter"),
    Case("P08-mean", asked("mean=0.5"), "422 unknown_parameter"),
    Case("P09-format", asked("format=xml"), INVALID, why="an unknown value of an option is 422, as of any other"),
    Case("P09-accept", asked("", Accept="application/xml"), "200", why="there is one form; RFC 9110 lets it be sent"),
]
