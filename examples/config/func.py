import io

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    """Greet with the words of the configuration."""
    config = ctx.Config()
    name = data.getvalue().decode("utf-8", "replace").strip() or "World"
    return response.Response(ctx, response_data=f"{config['GREETING']} {name}{config.get('PUNCTUATION', '.')}\n")
