"""All cases of the catalogue, for the test and the bench.

T01 to T17 stand in `service/test_v2_hostile.py`. I31 to I33 (a decoder that crashes, hangs, or is kept busy by eight
files at once) need decoders in processes of their own, which there are none of.
"""

import hostile_connections
import hostile_form
import hostile_http
import hostile_images
import hostile_json
import hostile_parameters

CASES = (
    hostile_http.CASES
    + hostile_connections.CASES
    + hostile_json.CASES
    + hostile_form.CASES
    + hostile_images.CASES
    + hostile_parameters.CASES
)
