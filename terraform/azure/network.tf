# Nodes have private addresses alone and one way out, through NAT; pods have addresses of an overlay. What is public is load
# balancers and, where networks are named, the API.

locals {
  # Of 10.0.0.0/16: nodes 10.0.0.0/20 (4091), Application Gateway for Containers 10.0.32.0/24, control plane 10.0.48.0/28.
  nodes_cidr = cidrsubnet(var.vnet_cidr, 4, 0)
  alb_cidr   = cidrsubnet(var.vnet_cidr, 8, 32)
  api_cidr   = cidrsubnet(var.vnet_cidr, 12, 768)
}

resource "azurerm_virtual_network" "this" {
  name                = local.name
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  address_space       = [var.vnet_cidr]
  tags                = local.tags
}

resource "azurerm_subnet" "nodes" {
  name                            = "nodes"
  resource_group_name             = data.azurerm_resource_group.this.name
  virtual_network_name            = azurerm_virtual_network.this.name
  address_prefixes                = [local.nodes_cidr]
  default_outbound_access_enabled = false
  # Models are read without leaving Azure's network, and the account knows this subnet.
  service_endpoints = ["Microsoft.Storage"]
}

resource "azurerm_subnet" "api" {
  #checkov:skip=CKV2_AZURE_31:delegated to the control plane, which brings its own rules
  name                            = "api"
  resource_group_name             = data.azurerm_resource_group.this.name
  virtual_network_name            = azurerm_virtual_network.this.name
  address_prefixes                = [local.api_cidr]
  default_outbound_access_enabled = false

  delegation {
    name = "control-plane"

    service_delegation {
      name    = "Microsoft.ContainerService/managedClusters"
      actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
    }
  }
}

resource "azurerm_subnet" "alb" {
  #checkov:skip=CKV2_AZURE_31:delegated to Application Gateway for Containers, whose gateways say what may be asked
  name                            = "alb"
  resource_group_name             = data.azurerm_resource_group.this.name
  virtual_network_name            = azurerm_virtual_network.this.name
  address_prefixes                = [local.alb_cidr]
  default_outbound_access_enabled = false

  delegation {
    name = "application-gateway-for-containers"

    service_delegation {
      name    = "Microsoft.ServiceNetworking/trafficControllers"
      actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
    }
  }
}

# Azure's own rules let in the network and its load balancer, and nobody else; AKS opens what a Service asks for.
resource "azurerm_network_security_group" "this" {
  name                = local.name
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  tags                = local.tags
}

resource "azurerm_subnet_network_security_group_association" "nodes" {
  subnet_id                 = azurerm_subnet.nodes.id
  network_security_group_id = azurerm_network_security_group.this.id
}

resource "azurerm_public_ip" "nat" {
  name                = "${local.name}-nat"
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  allocation_method   = "Static"
  sku                 = "Standard"
  tags                = local.tags
}

resource "azurerm_nat_gateway" "this" {
  name                    = local.name
  location                = var.location
  resource_group_name     = data.azurerm_resource_group.this.name
  sku_name                = "Standard"
  idle_timeout_in_minutes = 10
  tags                    = local.tags
}

resource "azurerm_nat_gateway_public_ip_association" "this" {
  nat_gateway_id       = azurerm_nat_gateway.this.id
  public_ip_address_id = azurerm_public_ip.nat.id
}

resource "azurerm_subnet_nat_gateway_association" "nodes" {
  subnet_id      = azurerm_subnet.nodes.id
  nat_gateway_id = azurerm_nat_gateway.this.id
}

# The control plane reaches webhooks of the cluster inside, and the rest of Azure by this way.
resource "azurerm_subnet_nat_gateway_association" "api" {
  subnet_id      = azurerm_subnet.api.id
  nat_gateway_id = azurerm_nat_gateway.this.id
}
