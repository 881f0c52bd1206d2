# make demo    train two models and show that the bits agree everywhere
# make test    run the tests
# Both create .venv and install what is missing; afterwards they need no network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Names the Python that the environment was made for; newer pyproject.toml, setup.py or C sources reinstall.
STAMP := $(VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: demo test bench profiles schedules gpu gpu-compile gpu-compile-check gpu-rehearsal bench-demo onnx-conformance train-text light-models checkpointing memory fuzz fuzz-onnx gradients frontends lint typecheck wheel prove clean training-parity

demo: $(STAMP)
	"$(BIN)/python" -m gensyn_tvm.cli demo

test: $(STAMP)
	"$(BIN)/python" -m pytest -n 2

# Kernels and networks beside PyTorch, ONNX Runtime and NumPy, on an idle machine; writes benchmarks/results/cpu.json, continues
# where it was stopped, and writes docs/benchmarks.md. QUICK=1 measures a sample in less than five minutes and writes nothing.
bench: $(STAMP)
	"$(BIN)/python" -m benchmarks.cpu $(if $(QUICK),--quick,--compiled) $(BENCH)
	$(if $(QUICK),,"$(BIN)/python" scripts/make_benchmarks_page.py)

# The cases of cpu.json in which a peer is faster, kernel by kernel; writes benchmarks/results/cpu_profiles.json, docs/profiles.md.
profiles: $(STAMP)
	"$(BIN)/python" -W ignore -m benchmarks.cpu.profiles
	"$(BIN)/python" scripts/make_profiles_page.py

# Measures afresh, writes benchmarks/results/ and the tables of README.md; wants an idle machine.
bench-demo: demo
	"$(BIN)/python" benchmarks/training_step.py
	"$(BIN)/python" scripts/make_results_table.py --demo demo-output/report.json

# Runs onnx's own node tests and writes benchmarks/results/onnx_conformance.json.
onnx-conformance: $(STAMP)
	"$(BIN)/python" benchmarks/onnx_conformance.py

# A small GPT on the standard library's text, killed and continued; writes benchmarks/results/train_text.json.
train-text: $(STAMP)
	"$(BIN)/python" benchmarks/train_text.py

# Nine networks of the onnx package, compiled and interpreted: about ten minutes, most of them the interpreter's.
light-models: $(STAMP)
	"$(BIN)/python" benchmarks/light_models.py

# Memory and time with and without recomputation: some minutes. Writes benchmarks/results/checkpointing.json.
checkpointing: $(STAMP)
	"$(BIN)/python" benchmarks/checkpointing.py

# Peak memory of training steps beside PyTorch: a quarter of an hour, most of it compiling. Writes benchmarks/results/memory.json.
memory: $(STAMP)
	"$(BIN)/python" benchmarks/memory.py

lint: $(STAMP)
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m ruff format --check .

typecheck: $(STAMP)
	"$(BIN)/python" -m mypy

wheel: $(STAMP)
	"$(BIN)/python" -m build --no-isolation

# Eleven models trained beside PyTorch: forty minutes. Writes benchmarks/results/training_parity.json.
training-parity: $(STAMP)
	"$(BIN)/python" -m benchmarks.training_parity

# All 2^32 inputs of every elementary function: hours, so no part of test.
prove: $(STAMP)
	"$(BIN)/python" scripts/prove_elementary.py

# 10,000 random graphs: an hour on two idle cores. Continues where it was stopped; writes benchmarks/results/fuzz_graphs.json.
fuzz: $(STAMP)
	"$(BIN)/python" scripts/fuzz_graphs.py

# 3,400 random schedules, each refused by the order verifier or equal in every bit: ten minutes. Writes
# benchmarks/results/random_schedules.json.
schedules: $(STAMP)
	"$(BIN)/python" scripts/fuzz_schedules.py

# Damaged ONNX files: six minutes. Writes benchmarks/results/fuzz_onnx_files.json.
fuzz-onnx: $(STAMP)
	"$(BIN)/python" scripts/fuzz_onnx_files.py --seconds 360

# Every operator's gradient against finite differences, autograd and all targets: some minutes on two cores. Writes
# benchmarks/results/gradients.json.
gradients: $(STAMP)
	"$(BIN)/python" scripts/check_gradients.py

# What a GPU is asked, compiled and packed (gpu-pack.zip), and run on the GPU of this machine if it has one. On another machine:
# unzip gpu-pack.zip -d gpu-pack && python gpu-pack/gpu_check.py. Writes benchmarks/gpu/<device>.json.
gpu: gpu-pack.zip
	"$(BIN)/python" -c "import zipfile; zipfile.ZipFile('gpu-pack.zip').extractall('gpu-pack')"
	"$(BIN)/python" gpu-pack/gpu_check.py

gpu-pack.zip: $(STAMP)
	"$(BIN)/python" -m benchmarks.gpu_pack --output gpu-pack.zip

# Every kernel for NVIDIA GPUs, compiled for all architectures and read: three minutes of one core. Needs no GPU. Writes
# benchmarks/gpu/kernels.json.
gpu-compile: $(STAMP)
	"$(BIN)/python" -m benchmarks.gpu_compile

# The same from nothing, compared with the record: what continuous integration runs.
gpu-compile-check: $(STAMP)
	"$(BIN)/python" -m benchmarks.gpu_compile --check build/gpu-kernels.json

# All that a GPU would run, as OpenCL on PoCL: an hour. Continues where it was stopped; writes benchmarks/results/gpu_rehearsal.json.
gpu-rehearsal: $(STAMP)
	"$(BIN)/python" -m benchmarks.gpu_rehearsal

# Models of PyTorch, Keras, TensorFlow and ONNX imported, compared and trained: an hour or two on two idle cores. Continues where it
# was stopped; writes benchmarks/results/frontends.json and docs/frontends-table.md.
frontends: $(STAMP)
	"$(BIN)/python" -m benchmarks.frontends $(FRONTENDS)
	"$(BIN)/python" scripts/make_frontends_page.py

clean:
	rm -rf "$(VENV)" build dist demo-output gpu-pack gpu-pack.zip fuzz-failures *.egg-info gensyn_tvm/runtime/*.so .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(STAMP): pyproject.toml setup.py $(wildcard gensyn_tvm/runtime/_call*.[ch])
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install "pip>=24" "setuptools>=77.0.3" "numpy>=2.1,<2.5"
	"$(BIN)/python" -m pip install torch==2.13.0
	"$(BIN)/python" -m pip install --no-build-isolation -e ".[onnx,torch,tensorflow,keras,train,cuda,demo,tune,bench,dev]"
	touch "$(STAMP)"
