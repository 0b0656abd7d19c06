"""FastAPI, with the quickest JSON that there is for it and without a model of the body."""

import orjson
from fastapi import FastAPI, Request, Response
from forest import Forest

app = FastAPI()
forest = Forest()


@app.post("/predict")
async def predict(request: Request):
    answer = forest.answer(orjson.loads(await request.body())["instances"])
    return Response(orjson.dumps(answer), media_type="application/json")
