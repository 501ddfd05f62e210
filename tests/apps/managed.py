"""A background callback with a manager: Dash's own way, which is by polling."""

from dash import Input, Output, dcc, html
from dash.background_callback.managers import BaseBackgroundCallbackManager

from dash_dispatch import Dash, callback


class AtOnce(BaseBackgroundCallbackManager):
    """Runs a job when it is asked for, and keeps what came of it."""

    def __init__(self):
        super().__init__(None)
        self.results = {}
        self.reports = {}

    def make_job_fn(self, fn, progress, key=None):
        return fn, progress, key

    def call_job_fn(self, key, job_fn, args, context):
        function, progress, _ = job_fn
        self.reports[key] = []
        first = [self.reports[key].extend] if progress else []
        self.results[key] = [function(*first, *args), context.path]
        return 1

    def get_progress(self, key):
        return self.reports.pop(key, None)

    def get_result(self, key, _job):
        return self.results.pop(key, self.UNDEFINED)

    def get_updated_props(self, _key):
        return {}

    def job_running(self, _job):
        return False

    def terminate_job(self, job):
        pass

    def get_or_create_signing_secret(self, generate):
        return generate()


app = Dash(__name__, background_callback_manager=AtOnce())
server = app.server
app.layout = html.Div([dcc.Store(id="in", data=0), html.Div(id="of-app"), html.Div(id="of-page")])


def report(set_progress, value):
    set_progress([value])
    return value + 1


def register(made, name):
    made(
        Output(name, "children"),
        Input("in", "data"),
        background=True,
        progress=Output("bar", "value"),
        progress_default=1,
    )(report)


register(app.callback, "of-app")
register(callback, "of-page")
