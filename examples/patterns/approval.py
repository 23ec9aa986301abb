"""Human in the loop: a run waits for a person, for a minute or for a month, and goes its own way if nobody answers.

Run it: python examples/patterns/approval.py
"""

from __future__ import annotations

import asyncio

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, activity, workflow


@activity
async def pay(amount: int) -> str:
    return f"paid {amount}"


@workflow
async def expense(ctx: WorkflowContext, amount: int) -> str:
    if amount > 100:
        ctx.set_custom_status("waits for an approval")
        try:
            approval = await ctx.wait_for_external_event("approval", timeout=86_400)
        except TimeoutError:
            return "nobody answered"
        if not approval["approved"]:
            return f"refused by {approval['by']}"
    return await ctx.call_activity(pay, input=amount)


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("expenses.db")) as runtime:
        run = await runtime.start(expense, 250, instance_id="expense-7")
        record = await runtime.find(run)
        if record is not None and not record.status.finished:
            await runtime.raise_event(run, "approval", {"approved": True, "by": "Ada"})
        print(await runtime.wait(run))


if __name__ == "__main__":
    asyncio.run(main())
