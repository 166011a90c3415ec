# The page, for Docker Spaces (sdk: docker, app_port: 7860) and own machines:
#   docker build -t fastav . && docker run -p 7860:7860 fastav
# On Linux plain torch brings gigabytes of CUDA. For a CPU image name PyTorch's CPU wheel index: --build-arg TORCH_INDEX=...
# The versions are those of constraints.txt, which the tests were run with.
FROM python:3.11-slim

RUN useradd -m -u 1000 user && install -d -o 1000 -g 1000 /home/user/app
USER 1000
WORKDIR /home/user/app
ENV HOME=/home/user \
    HF_HOME=/home/user/.cache/huggingface \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    PYTHONUNBUFFERED=1

ARG TORCH_INDEX=""
COPY --chown=1000 requirements.txt constraints.txt .
RUN pip install --no-cache-dir --user ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt -r requirements.txt
COPY --chown=1000 . .

EXPOSE 7860
CMD ["python", "app.py"]
