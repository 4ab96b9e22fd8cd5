import httpx
from pydantic import BaseModel

from worker import Context, Registry

registry = Registry()

PRODUCTS = "https://shop.example.com/products"
INDEX = "https://search.example.com/index/products"


class Crawl(BaseModel):
    page: int = 1


class Page(BaseModel):
    items: list[int]
    next: int | None


async def fetch_page(client: httpx.AsyncClient, number: int) -> Page:
    response = await client.get(PRODUCTS, params={"page": number})
    response.raise_for_status()
    return Page.model_validate(response.json())


async def put_index(client: httpx.AsyncClient, items: list[int]) -> None:
    response = await client.put(INDEX, json=items)
    response.raise_for_status()


@registry.handler("products.crawl", timeout=300)
async def crawl_products(crawl: Crawl, context: Context) -> int:
    items: list[int] = []
    number: int | None = crawl.page
    while number is not None:
        page = await context.step(f"page/{number}", fetch_page, context.http, number)
        items += page.items
        number = page.next
    await context.step("index", put_index, context.http, items)
    return len(items)
