worker dead list --reason http_status
worker dead show order-7
worker dead replay order-7
