"""Flask. Started by gunicorn, with threads: only those workers keep connections."""

from flask import Flask, jsonify, request
from forest import Forest

app = Flask(__name__)
forest = Forest()


@app.post("/predict")
def predict():
    return jsonify(forest.answer(request.get_json()["instances"]))
