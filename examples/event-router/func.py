import io
import json
import logging

from fdk import response

ACTIONS = {
    "com.oraclecloud.objectstorage.createobject": "import",
    "com.oraclecloud.objectstorage.updateobject": "import",
    "com.oraclecloud.objectstorage.deleteobject": "forget",
}


def handler(ctx, data: io.BytesIO = None):
    """Decide what to do about an event of Object Storage (CloudEvents 0.1 as the Events service sends it)."""
    try:
        event = json.loads(data.getvalue())
        kind, details = event["eventType"], event["data"]
    except (ValueError, KeyError, TypeError) as exc:
        logging.getLogger().error("not an event: %r", exc)
        raise
    decision = {
        "action": ACTIONS.get(kind, "ignore"),
        "object": details.get("resourceName"),
        "bucket": details.get("additionalDetails", {}).get("bucketName"),
        "event": event.get("eventID"),
    }
    logging.getLogger().info("%(action)s %(bucket)s/%(object)s", decision)
    return response.Response(
        ctx, response_data=json.dumps(decision), headers={"Content-Type": "application/json"}
    )
