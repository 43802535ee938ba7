"""A program that needs a library which the sandbox lacks: the platform's fault, not the answer's."""

from __future__ import annotations

import re
import sys

from rgopd.verifier.verdict import Status, Verdict, error

_RAISED = re.compile(r"ModuleNotFoundError: No module named '([\w.]{1,100})'")
_IMPORT = r"^[ \t]*(?:import|from)[ \t]+(?:[\w., \t]*[ \t,])?{name}\b"
_REMOVED = "asynchat asyncore binhex cgi cgitb crypt distutils formatter imghdr imp nntplib parser pipes smtpd sndhdr"
_KNOWN = """
absl accelerate aiofiles aiohttp airflow albumentations altair anthropic antlr4 apscheduler arch arrow art ast_grep
asyncpg attr attrs autograd av bcrypt bidict bitarray bitstring black bleach blinker blist bokeh boltons
boost_histogram boto3 botocore bottle bs4 cachetools cairo catboost causalml celery certifi cffi chardet
charset_normalizer chess chromadb click clickhouse_driver cloudpickle cmath2 colorama colorlog confluent_kafka
contourpy cplex cryptography cupy cv2 cvxopt cvxpy cycler cython dash dask dataclasses_json datasets dateparser
dateutil deap decorator deepdiff deepspeed deprecated diffusers dill discord diskcache distributed django dns docker
docopt docplex docx dotenv duckdb easyocr editdistance einops elasticsearch emoji ephem evaluate fabric faiss faker
fastai fastapi fastavro fasttext feedparser filelock fire fitz flask flax folium fpdf frozendict fsspec ftfy
fuzzywuzzy gensim geopandas geopy gevent git github gluonts gmpy2 google googleapiclient graphviz greenlet grpc
gurobipy gym gymnasium h5py haiku hdbscan holidays html5lib httpx huggingface_hub hypothesis igraph imageio imblearn
imutils inflect inflection influxdb intervaltree IPython ipywidgets isodate jax jaxlib jellyfish jieba jinja2 joblib
jose jsonpath_ng jsonschema jwt kafka keras kivy kiwisolver kubernetes langchain langdetect Levenshtein librosa
lifelines lightgbm lightning llama_index llvmlite loguru lru lxml magic mako markdown markupsafe marshmallow
matplotlib mlflow mlxtend mock mongoengine more_itertools moviepy mpl_toolkits mpmath msgpack multidict
multipledispatch multiset munkres mypy mysql MySQLdb natsort neo4j netCDF4 networkx nltk nose numba numexpr numpy odf
onnx onnxruntime openai opencv OpenGL openpyxl optax optuna orjson ortools osmnx paddle pandas paramiko parso passlib
patsy peewee peft pendulum pexpect pika PIL pint pip pkg_resources platformdirs plotly pluggy pmdarima pocketsphinx
polars portion prettytable primefac primesieve prometheus_client prophet protobuf psutil psycopg psycopg2 ptvsd pulp
pvlib py pyarrow pyaudio pycountry pycryptodome pydantic pydub pyfiglet pygal pygame pygments pylab pymc pymongo
pymysql pynput pyodbc pyparsing pypdf PyPDF2 pyperclip pyproj PyQt5 PyQt6 pyqtgraph pyrsistent pyscipopt PySide2
PySide6 pyspark pytesseract pytest pytorch_lightning pytz pywt qiskit qrcode rapidfuzz ray rdflib redis regex
reportlab requests requests_html rich rpy2 ruamel sage scapy scikit_posthocs scipy scrapy seaborn selenium
sentence_transformers sentencepiece serial setuptools shap shapely simplejson simpy six skimage sklearn skopt slugify
snowflake sortedcollections sortedcontainers soundfile soupsieve spacy speech_recognition sqlalchemy sqlmodel stanza
starlette statsmodels streamlit stripe structlog sympy tabulate tenacity tensorboard tensorflow termcolor textblob
texttable theano thefuzz tiktoken timm toml tomli toolz toposort torch torch_geometric torchaudio torchtext
torchvision tornado tqdm transformers treelib trio triton trl tsfresh tushare tweepy twilio twisted typeguard typer
typing_extensions tzlocal ujson umap unidecode urllib3 uvicorn validators vllm vowpalwabbit wandb watchdog wcwidth
webcolors websocket websockets werkzeug wikipedia wordcloud wordfreq wrapt wx xarray xgboost Xlib xlrd xlsxwriter xlwt
xmltodict xxhash yaml yarl yfinance z3 zmq zstandard
"""
_PARTED = frozenset(("curses", "distutils", "ensurepip", "idlelib", "lib2to3", "test", "tkinter"))
"""Of these a part may be there without the rest: Linux distributions split them."""

KNOWN = frozenset((*_KNOWN.split(), *_REMOVED.split())) | sys.stdlib_module_names
"""Libraries that exist: those that programs import most, and every module that a Python has or had."""


def as_missing_library(verdict: Verdict, packages: frozenset[str] = frozenset(), tests: str = "") -> Verdict:
    """`error` with the library's name, where a verdict failed because the sandbox lacks one that is known to exist (or
    is one of the configured `packages`) and that the program or its tests import by name; else the verdict as it is."""
    if verdict.status is not Status.failed:
        return verdict
    for reason in (verdict.reason, *(test.reason for test in verdict.tests)):
        found = _RAISED.search(reason)
        name = found[1].partition(".")[0] if found else ""
        if found and "." in found[1] and name in (sys.stdlib_module_names | packages) - _PARTED:
            continue  # the library is there, and has no such part
        if name in KNOWN | packages and _imports(f"{verdict.extracted or ''}\n{tests}", name):
            said = f"the library {name!r} exists and is not in the sandbox: no reward; add it to `packages`"
            return error(said, extracted=verdict.extracted, tests=verdict.tests)
    return verdict


def _imports(program: str, name: str) -> bool:
    return re.search(_IMPORT.format(name=re.escape(name)), program, re.MULTILINE) is not None
