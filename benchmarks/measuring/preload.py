"""What a forkserver imports before it forks measuring processes: PEFT, and bitsandbytes before it.

Left to itself PEFT's import of bitsandbytes looks for code on the hub (`import_library`).
"""

from proper_model.base.quantized import import_peft

import_peft()
